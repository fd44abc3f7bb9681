"""The protocol by which learners agree: what the training loop calls, and when.

One training step of one learner, whatever the scheme:

    divisor = backend.begin_step(local_weight, planned_weight)
    for unit in units:
        with backend.accumulating() unless unit is the last one:
            out = model(unit);  (out.total / divisor).backward()
    report = backend.reduce_gradients(max_norm)
    with backend.updating(apply=report.finite):
        optimizer.step() if report.finite
    backend.zero_grad()

Every scheme that mixes weights follows one rule, applied as a difference so that the sum over learners is conserved:

    w_i += sum_j T_ij * snapshot_j - snapshot_i          (T doubly stochastic; snapshots are what was really sent)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple

from torch import nn
from torch.optim import Optimizer

State = dict[str, Any]  # tensors, numbers, strings and containers of them: loadable without unpickling code


class Claim(NamedTuple):
    """Units of a pool that a learner trains next, by their index; the step is one with those of others in its group."""

    first: int  # of this learner's own units
    step_first: int  # of all units of the step
    step_units: int


class GradientReport(NamedTuple):
    """The result of reducing the gradients of one step."""

    norm: float  # before clipping: of the reduced gradient, or of the learner's own one where gradients are compressed
    clipped: bool
    finite: bool  # the same on all learners in synchronous schemes, this learner's own in gossip


class Backend(ABC):
    """The scheme by which learners agree. Built before the model; called in the order of the methods below."""

    synchronous: ClassVar[bool]
    """True where every learner holds the same weights and takes the same steps: loss and finiteness are global."""

    lockstep: ClassVar[bool] = True
    """True where a step of one learner is a step of all; False where each goes at its own pace, with units of a pool."""

    whole_last_backward: ClassVar[bool] = False
    """True where the last backward of a step must give every trainable parameter a gradient."""

    @abstractmethod
    def examine(self, model: nn.Module, forward: Callable[[], object]) -> None:
        """Learn before ``wrap`` how the model is used; collective, and may not call ``forward`` at all.

        ``forward`` runs the loss of one typical sample on the model, which may leave no trace.
        """

    @abstractmethod
    def check_clipping(self, max_norm: float | None) -> None:
        """Raise ValueError where gradients cannot be clipped to ``max_norm``; None clips nothing."""

    @abstractmethod
    def check_steps(self, steps: int) -> None:
        """Warn where a run of so many global steps is too short for the scheme; called once before ``wrap``."""

    @abstractmethod
    def wrap(self, model: nn.Module) -> nn.Module:
        """Put the parameters into one flat buffer per dtype and return the module that the loop calls."""

    @abstractmethod
    def attach(self, optimizer: Optimizer) -> None:
        """Take the optimizer; raises ValueError if a parameter no longer lies in the flat buffer."""

    @abstractmethod
    def synchronise(self, resumed: bool, rehearse: Callable[[], None] | None = None) -> None:
        """Make a fresh start equal on all learners; after a resume check what must be equal.

        ``rehearse`` runs one forward and backward and drops its gradients; a backend whose first backward differs
        from later ones (DistributedDataParallel rebuilds its buckets) calls it so that a restart is bitwise the same.
        """

    @abstractmethod
    def claim(self, name: str, number: int) -> Claim:
        """Without ``lockstep``: claim the next ``number`` units of the pool called ``name``.

        Every learner calls it as it likes; no other one gets these units.
        """

    @abstractmethod
    def begin_step(self, local_weight: float, planned_weight: float) -> float:
        """Start what overlaps the computation; return the number that divides this learner's summed loss.

        Args:
            local_weight: weight of the units that this learner has loaded for the step, which only it knows: schemes
                that average gradients divide by the mean over learners, for which they ask all of them.
            planned_weight: a learner's share of the step's weight according to the plan, known to all learners without
                a message: gossip divides by it. It includes utterances that could not be loaded.
        """

    @abstractmethod
    def accumulating(self) -> AbstractContextManager[None]:
        """Wraps the forward and backward of every unit but the last of a step: nothing is communicated inside."""

    @abstractmethod
    def reduce_gradients(self, max_norm: float | None) -> GradientReport:
        """Reduce the gradients over learners, then clip to ``max_norm`` all but those of groups with ``clip=False``."""

    @abstractmethod
    def updating(self, apply: bool) -> AbstractContextManager[None]:
        """Wraps the optimizer's step, also one that is skipped: adds the mixing that has arrived to the weights."""

    @abstractmethod
    def zero_grad(self) -> None:
        """Zero the gradients, keeping them views of the flat buffer."""

    @abstractmethod
    def global_mean(self, total: float, weight: float) -> float:
        """Mean of a summed quantity: over all learners in synchronous schemes, this learner's own in gossip."""

    @abstractmethod
    def consensus(self) -> AbstractContextManager[dict[str, float]]:
        """Entered by all learners together: the model holds their mean inside, exactly its own weights afterwards.

        Yields metrics of the distance between learners, under ``consensus/*``; empty where all hold the same weights.
        """

    @abstractmethod
    def own_weights(self) -> AbstractContextManager[None]:
        """Within ``consensus()``: the model holds this learner's own weights inside, the mean again afterwards."""

    @abstractmethod
    def drain(self) -> None:
        """Wait until nothing of this learner is in flight."""

    @abstractmethod
    def close(self) -> None:
        """Release threads and groups; safe to call twice and after an error (no collectives)."""

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Metrics accumulated since the last call, under ``comm/*`` and ``time/comm_exposed``."""

    @abstractmethod
    def state_dict(self) -> State:
        """This learner's own state of the scheme."""

    @abstractmethod
    def load_state_dict(self, states: Sequence[Mapping[str, Any]], rank: int, world_size: int) -> None:
        """Take the states of all OLD learners; their number may differ from ``world_size``."""
