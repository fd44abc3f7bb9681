"""What all schemes share: flat parameters, clipping, traffic, the start, and the mean model of an evaluation.

Two families derive from here. In a synchronous scheme every learner holds the same weights, so a resume can check
that and an evaluation need only average floating buffers (running statistics). In gossip every learner has weights of
its own, which a resume keeps and an evaluation averages, without writing the mean back: that would be another method.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from distributed.backend import Backend, Claim, GradientReport, State
from distributed.errors import UsageError
from distributed.learners.world import World
from distributed.parameters.flat_parameters import FlatParameters
from distributed.parameters.gradients import clip_gradients

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by size: elements as whole numbers


class UnequalStartError(UsageError):
    """Learners start with different states where the scheme needs equal ones; the message names those that differ."""


class FlatBackend(Backend):
    """A backend whose model lies in flat buffers. Subclasses say how learners agree."""

    def __init__(self, *, world: World) -> None:
        self.world = world
        self.traffic = world.traffic  # shared with the world, whose own messages it already counts
        self._flat: FlatParameters | None = None
        self._model: nn.Module | None = None
        self._optimizer: Optimizer | None = None
        self._own: list[tuple[Tensor, Tensor]] | None = None  # within consensus(): (averaged tensor, saved own value)

    # The model

    def examine(self, model: nn.Module, forward: Callable[[], object]) -> None:
        """Does nothing, unless a subclass overrides it."""

    def check_clipping(self, max_norm: float | None) -> None:
        """Accepts every norm, unless a subclass overrides it."""

    def check_steps(self, steps: int) -> None:
        """Accepts every number of steps, unless a subclass overrides it."""

    def wrap(self, model: nn.Module) -> nn.Module:
        self._model, self._flat = model, FlatParameters(model, gradients=True)
        return model

    @property
    def flat(self) -> FlatParameters:
        """The wrapped model's parameters."""
        if self._flat is None:
            raise RuntimeError("backend.wrap(model) comes first")
        return self._flat

    @property
    def model(self) -> nn.Module:
        """The bare module."""
        if self._model is None:
            raise RuntimeError("backend.wrap(model) comes first")
        return self._model

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer of the wrapped model."""
        if self._optimizer is None:
            raise RuntimeError("backend.attach(optimizer) comes first")
        return self._optimizer

    def attach(self, optimizer: Optimizer) -> None:
        self.flat.verify()
        known = {id(parameter) for parameter in self.model.parameters()}
        if any(id(parameter) not in known for group in optimizer.param_groups for parameter in group["params"]):
            raise ValueError("the optimizer holds a parameter that is not in the wrapped model; build it after wrap")
        self._optimizer = optimizer

    # The step

    def claim(self, name: str, number: int) -> Claim:
        first = self.world.claim(name, number)
        return Claim(first, first, number)

    def accumulating(self) -> AbstractContextManager[None]:
        return nullcontext()

    def reduce_gradients(self, max_norm: float | None) -> GradientReport:
        return clip_gradients(self.optimizer.param_groups, max_norm)

    def updating(self, apply: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def zero_grad(self) -> None:
        self.flat.zero_grad()

    # Agreement

    def synchronise(self, resumed: bool, rehearse: Callable[[], None] | None = None) -> None:
        answers = self.world.gather(int(resumed))
        if len(set(answers)) > 1:
            fresh = [rank for rank, answer in enumerate(answers) if not answer]
            raise UnequalStartError(
                f"learners {fresh} start afresh while the others resume; "
                "put the run's folder where all learners see the same files"
            )
        if resumed:
            self._check_resumed()
        else:
            for tensor in (*self.flat.flat, *self.model.buffers()):
                tensor.detach().copy_(self.world.broadcast(tensor.detach().contiguous(), source=0))

    @abstractmethod
    def _check_resumed(self) -> None:
        """Check after a resume what must be equal on all learners; raises UnequalStartError."""

    @abstractmethod
    def _averaged(self) -> list[Tensor]:
        """The tensors that are averaged over learners for the model of an evaluation."""

    def _disagreement(self, own: Sequence[Tensor]) -> dict[str, float]:
        """Metrics of the distance between learners, taken while the model holds the mean; ``own``: their weights."""
        return {}

    @contextmanager
    def consensus(self) -> Iterator[dict[str, float]]:
        self.drain()
        tensors = self._averaged() if self.world.size > 1 else []
        own = [tensor.clone() for tensor in tensors]
        self._own = list(zip(tensors, own, strict=True))
        try:
            for tensor in tensors:
                tensor.copy_(self.world.average(tensor.clone(memory_format=torch.contiguous_format)))
            yield self._disagreement(own)
        finally:
            for tensor, before in self._own:
                tensor.copy_(before)
            self._own = None

    @contextmanager
    def own_weights(self) -> Iterator[None]:
        if self._own is None:
            raise RuntimeError("backend.own_weights() is for use within backend.consensus()")
        means = [tensor.clone() for tensor, _ in self._own]
        try:
            for tensor, own in self._own:
                tensor.copy_(own)
            yield
        finally:
            for (tensor, _), mean in zip(self._own, means, strict=True):
                tensor.copy_(mean)

    def _floating_buffers(self) -> list[Tensor]:
        return [buffer.detach() for buffer in self.model.buffers() if buffer.is_floating_point()]

    def _sum(self, *values: float) -> list[float]:
        """Sums over learners of a few numbers, in float64: one small all-reduce."""
        tensor = torch.tensor(values, dtype=torch.float64)
        with self.traffic.waiting():
            self.world.all_reduce_sum(tensor)
        return tensor.tolist()

    # The end and the log

    def drain(self) -> None:
        """Does nothing, as nothing is in flight between steps, unless a subclass overrides it."""

    def close(self) -> None:
        """Does nothing, unless a subclass overrides it."""

    def metrics(self) -> dict[str, float]:
        return self.traffic.take()

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, states: Sequence[Mapping[str, Any]], rank: int, world_size: int) -> None:
        """Does nothing, as there is no state, unless a subclass overrides it."""


class SynchronousBackend(FlatBackend):
    """Every learner holds the same weights and takes the same steps."""

    synchronous = True

    def begin_step(self, local_weight: float, planned_weight: float) -> float:
        self.traffic.steps += 1
        (global_weight,) = self._sum(local_weight)
        # Where the total weight is 0 the loss is 0 as well, and any divisor gives the right result.
        return global_weight / self.world.size if global_weight > 0 else 1.0

    def global_mean(self, total: float, weight: float) -> float:
        return _mean(*self._sum(total, weight))

    def _check_resumed(self) -> None:
        checksums = self.world.gather(checksum(self.flat.flat))
        differing = [rank for rank, value in enumerate(checksums) if value != checksums[0]]
        if differing:
            raise UnequalStartError(
                f"after resuming, learners {differing} hold other weights than learner 0, but this scheme needs them "
                "equal; resume from another checkpoint, or start afresh with resume=false"
            )

    def _averaged(self) -> list[Tensor]:
        return self._floating_buffers()


class GossipBackend(FlatBackend):
    """Every learner holds weights of its own, which are mixed with those of others; metrics are this learner's own."""

    synchronous = False

    def global_mean(self, total: float, weight: float) -> float:
        return _mean(total, weight)

    def _check_resumed(self) -> None:
        """Checks nothing: every learner keeps the weights of its own checkpoint."""

    def _averaged(self) -> list[Tensor]:
        return [*self.flat.flat, *self._floating_buffers()]

    def _disagreement(self, own: Sequence[Tensor]) -> dict[str, float]:
        """Mean over learners of ||w_i - mean||^2, and its ratio to ||mean||^2 (arXiv 2110.11199)."""
        away = sum(_squared_norm(before - mean) for before, mean in zip(own, self.flat.flat, strict=False))
        distance = self.world.all_reduce_sum(torch.tensor([away], dtype=torch.float64)).item() / self.world.size
        squared_mean = sum(_squared_norm(mean) for mean in self.flat.flat)
        return {
            "consensus/distance": distance,
            "consensus/relative_distance": distance / squared_mean if squared_mean else math.nan,
        }


def checksum(tensors: Sequence[Tensor]) -> int:
    """An integer of 61 bits that changes when any byte of the tensors does, or when bytes trade places."""
    total = 0
    for tensor in tensors:
        for piece in tensor.detach().reshape(-1).view(_WORDS[tensor.element_size()]).split(1 << 20):
            places = torch.arange(1, len(piece) + 1, device=piece.device)
            total = (total * 31 + int((piece * places).sum())) % (1 << 61)
    return total


def _squared_norm(tensor: Tensor) -> float:
    return torch.linalg.vector_norm(tensor, dtype=torch.float64).item() ** 2


def _mean(total: float, weight: float) -> float:
    return total / weight if weight else math.nan
