"""What happens around the training loop. The loop, with the points at which hooks run:

    for node in hook.transforms():  model = build(node)(model)    # persistent: every model folder names them
    model = hook.on_model(model)                       # attaches what training alone needs
    backend.examine(model, forward);  model = backend.wrap(model)
    groups = hook.on_parameter_groups(model)           # parameters with rules of their own
    optimizer(groups);  backend.attach(optimizer);  load checkpoint
    hook.on_fit_start(run, resumed)
    a probe of memory                                  # forward, on_loss and backward of units that leave no trace
    backend.synchronise(resumed)                       # may rehearse: the same
    while samples are left:
        hook.on_step_start(progress)
        divisor = backend.begin_step(local_weight, planned_weight)
        for unit in units:
            hook.on_batch(raw)                         # in the loader, at the hook's stage
            output = model(batch)                      # these three for one part after the other, where memory
            hook.on_loss(batch, output, terms)         # adds to the sum, or a per-step term             asks for it
            terms.objective(divisor).backward()        # terms.summed / divisor + terms.per_step
        report = backend.reduce_gradients(max_norm)
        hook.on_gradients(model, report)
        with backend.updating(apply=report.finite):    # a step that is not finite skips both
            optimizer.step()
            hook.on_update(model, optimizer)           # the only point that writes parameters or moments
        backend.zero_grad()
        hook.on_step_end(progress, metrics)
        at evaluation marks, inside backend.consensus():
            hook.on_evaluation(progress, metrics)
        at checkpoint marks:
            hook.on_checkpoint(progress)
    hook.on_fit_end(progress)
    (on an exception: hook.on_error(error));  backend.close();  hook.close()

Batch hooks declare a ``stage``. Within the loader the order is: stage, then position in the list.

    waveform  ->  log-mel  ->  mel  ->  normalisation  ->  normalised  ->  deltas, stacking  ->  targets
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from asr.data.batch import Batch, RawBatch, Stage
from asr.data.manifest import Utterance
from asr.data.plan import BatchPlan
from asr.runs.progress import Progress
from asr.training.schedule import LearningRate
from distributed.backend import Backend, GradientReport
from distributed.learners.launch import World

if TYPE_CHECKING:
    from asr.models.speech_model import LossOutput, SpeechModel
    from asr.models.token_lm import TokenLanguageModel
    from asr.training.loss_gradients import LossGradients


class TokenModelLoader(Protocol):
    """Loads a trained language model, on the CPU."""

    def __call__(self, folder: Path, *, key: str) -> "TokenLanguageModel":
        """The best model of the run in ``folder``; errors, a ValueError, call the folder ``key``."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a hook may know of the run it is part of."""

    model: "SpeechModel"  # the bare module, not the backend's wrapper
    backend: Backend
    folder: Path
    seed: int
    world: World
    plan: BatchPlan
    utterances: Sequence[Utterance]  # that the plan's indices point into
    learning_rate: LearningRate
    max_norm: float | None  # to which gradients are clipped; None: not at all
    gradients: "LossGradients"  # measured where the hook asks for them, without a trace
    token_model: "TokenModelLoader"  # language models over the run's tokens, from the folders of their runs

    @property
    def epochs(self) -> float:
        """How many the run lasts."""
        horizon = self.learning_rate.schedule.horizon
        return horizon.total_samples / horizon.epoch_samples


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that a hook wants treated by rules of their own."""

    names: tuple[str, ...]  # as in model.named_parameters()
    options: Mapping[str, Any] = field(default_factory=dict)  # for the optimizer: lr, weight_decay, ...
    clip: bool = True  # take part in gradient clipping
    scale_lr: bool = True  # follow the linear scaling with the global batch
    compress: bool = True  # may be sparsified by a compressing backend
    schedule: bool = True  # follow the learning-rate schedule


@dataclass(slots=True)
class LossTerms:
    """The loss of one unit, or a part of one, while hooks add to it."""

    summed: Tensor  # scalar: sum over the utterances of the unit, later divided by the global weight
    last: bool  # whether this is the learner's last unit of the step, or the last part of it
    per_step: Tensor | None = None  # scalar: counted once per step whatever the batch
    sums: dict[str, Tensor] = field(default_factory=dict)  # for the log: detached summed terms, by name
    regularisers: dict[str, Tensor] = field(default_factory=dict)  # for the log: detached per-step terms, by name

    def add(self, name: str, value: Tensor) -> None:
        """Add a term summed over the utterances of the unit."""
        self.summed = self.summed + value
        self.sums[name] = value.detach()

    def add_per_step(self, name: str, value: Tensor) -> None:
        """Add a term that does not depend on the batch (a regulariser); only allowed in the last unit of a step."""
        if not self.last:
            raise RuntimeError(f"per-step term {name!r} added to a unit that is not the last one of the step")
        self.per_step = value if self.per_step is None else self.per_step + value
        self.regularisers[name] = value.detach()

    def objective(self, divisor: float) -> Tensor:
        """What the unit's backward starts from: the sum over ``divisor``, and per-step terms undivided.

        A value that is not finite makes every gradient so, those of terms that have none included: what learners agree
        on is the gradient.
        """
        mean = self.summed / divisor
        value = mean if self.per_step is None else mean + self.per_step
        return value * torch.where(value.detach().isfinite(), 1.0, math.nan)


class Hook:
    """Base of all hooks: every point is a no-op. Override what the method needs."""

    changes_training: ClassVar[bool] = True
    """False is a promise that the loss curve is bitwise the same without the hook."""

    stage: ClassVar[Stage | None] = None
    """Where ``on_batch`` runs; None for hooks that do not touch batches."""

    comes_after: ClassVar[tuple[str, ...]] = ()
    """Names of hooks that, later in the list, would undo or distort what this one does: such a list is refused."""

    @property
    def lengthens(self) -> float:
        """How much longer ``on_batch`` makes an utterance at most, as a fraction; ``batch.frame_margin`` has room for it."""
        return 0.0

    @property
    def lengthens_targets(self) -> float:
        """How many more tokens ``on_batch`` gives an utterance at most, as a fraction rounded up; for ``batch.target_margin``."""
        return 0.0

    def transforms(self) -> list[dict[str, Any]]:
        """Nodes of persistent changes of the module tree, applied to the built model in this order before ``on_model``.

        They are written into every model folder (asr/runs/model_folder.py), so that the model is rebuilt without the hook.
        """
        return []

    def on_model(self, model: "SpeechModel") -> "SpeechModel":
        """Runs once, before the backend and the optimizer see the model: attaches what training alone needs.

        Parameters and modules that shall be in model folders are the matter of ``transforms``.
        """
        return model

    def on_parameter_groups(self, model: "SpeechModel") -> list[ParameterGroup]:
        """Runs once, before the optimizer is built."""
        return []

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        """Runs once, after a checkpoint was loaded and before learners are made equal: the place to calibrate."""

    def on_step_start(self, progress: Progress) -> None:
        """Runs before each step."""

    def on_batch(self, raw: RawBatch) -> None:
        """Runs in the loader, possibly in another process, once per unit at the hook's ``stage``; training only.

        Must be a function of ``raw`` and the hook's construction alone, so that it does not depend on the workers.
        """

    def on_loss(self, batch: Batch, output: "LossOutput", terms: LossTerms) -> None:
        """Runs after the forward of each unit, or of each part of one that memory asks to split."""

    def on_gradients(self, model: nn.Module, report: GradientReport) -> None:
        """Runs after gradients were reduced and clipped, before the update."""

    def on_update(self, model: "SpeechModel", optimizer: Optimizer) -> None:
        """Runs after the optimizer's step: the only point at which a hook may write parameters or the optimizer's state.

        Under asynchronous gossip the lock is held here, so that no neighbour is sent weights in the middle of a change.
        """

    def on_step_end(self, progress: Progress, metrics: dict[str, float]) -> None:
        """Runs after each step; may add figures to ``metrics``, which is logged at logging steps."""

    def on_evaluation(self, progress: Progress, metrics: dict[str, float]) -> None:
        """Runs after an evaluation on all learners, while the model holds the consensus weights; may add to ``metrics``.

        ``backend.own_weights()`` puts this learner's own ones in for a while.
        """

    def on_checkpoint(self, progress: Progress) -> None:
        """Runs before a checkpoint is written."""

    def on_fit_end(self, progress: Progress) -> None:
        """Runs once, when all samples were processed."""

    def on_error(self, error: BaseException) -> None:
        """Runs when the loop ends with an exception; must not communicate."""

    def close(self) -> None:
        """Runs last, in any case."""

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs: tensors, numbers, strings and containers of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
