"""Hooks: objects whose methods run at fixed points of the training loop. The loop with these points:

    for node in hook.transforms():  model = build(node)(model)    # persistent: every model folder names them
    model = hook.on_model(model)                       # attaches what training alone needs
    model.auxiliary = {name: hook.on_auxiliary(model)}            # modules that train with it and are in no model folder
    backend.examine(model, forward);  model = backend.wrap(model)
    groups = hook.on_parameter_groups(model)           # parameters with options of their own
    optimizer(groups);  backend.attach(optimizer);  load checkpoint
    hook.on_fit_start(run, resumed)
    a probe of memory                                  # forward, on_loss and backward of units that leave no trace
    backend.synchronise(resumed)                       # may rehearse a step, which leaves no trace either
    while samples are left:
        hook.on_step_start(progress)
        passes = hook.passes(progress)                 # over every unit; one ordinary pass unless a hook asks for more
        idle = group.idle(progress)                    # for each hook's groups: gradients are 0, nothing is updated
        divisor = backend.begin_step(local_weight, planned_weight)
        for unit in units:
            hook.on_batch(raw)                         # in the loader, at the hook's stage
            for each in passes:                        # over the unit, or over its parts where memory is short
                with each.context():
                    output = model(batch)
                    hook.on_loss(batch, output, terms)     # adds to the sum, or a per-step term
                    terms.objective(divisor).backward()    # weight * terms.summed / divisor + terms.per_step
        report = backend.reduce_gradients(max_norm)
        hook.on_gradients(model, report)
        with backend.updating(apply=report.finite):    # a step that is not finite skips both
            optimizer.step()
            hook.on_update(model, optimizer)           # the only point that writes parameters or moments
        backend.zero_grad()
        hook.on_step_end(progress, metrics)
        every hook.meets_every global steps, all learners together:
            hook.on_meeting(progress)
        at evaluation marks, inside backend.consensus():
            hook.on_evaluation(progress, metrics)
        at checkpoint marks:
            hook.on_checkpoint(progress)
    hook.on_fit_end(progress)
    (on an exception: hook.on_error(error));  backend.close();  hook.close()

Batch hooks declare a ``stage``. Within the loader the order is: stage, then position in the list.

    waveform  ->  log-mel  ->  mel  ->  normalisation  ->  normalised  ->  deltas, stacking  ->  targets
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn
from torch.optim import Optimizer

from asr.data.batch import Batch, RawBatch, Stage
from asr.data.manifest import Utterance
from asr.data.plan import BatchPlan
from asr.data.tokenizer import Tokenizer
from asr.foreign.tensors import refuse_non_finite
from asr.runs.checkpoint import model_folder_of
from asr.runs.model_folder import Description, LoadedModel, load_model
from asr.runs.progress import Progress
from asr.training.loss_terms import LossTerms
from asr.training.passes import ForwardPass
from asr.training.precision import Precision
from asr.training.schedule import LearningRate
from distributed.backend import Backend, GradientReport
from distributed.learners.world import World

if TYPE_CHECKING:
    from asr.models.speech_model import LossOutput, SpeechModel
    from asr.training.loss_gradients import LossGradients


@dataclass(frozen=True, slots=True)
class Run:
    """The parts of a run that hooks may read."""

    model: "SpeechModel"  # the bare module, not the backend's wrapper
    description: Description  # of the model, as the run's model folders have it: features and transforms included
    backend: Backend
    folder: Path
    seed: int
    world: World
    plan: BatchPlan
    utterances: Sequence[Utterance]  # the training split; the plan's indices point into it
    learning_rate: LearningRate
    max_norm: float | None  # gradients are clipped to this norm; None: not clipped
    gradients: "LossGradients"  # computes gradients on request, without any trace in the run
    precision: Precision  # precision of forward passes
    tokenizer: Tokenizer
    batches: Callable[[str, int], Iterable[Batch]]
    """``batches(split, seed)``: all utterances of a split without augmentation, on the host, units in an order drawn from
    ``seed``; nothing is read before it is asked for."""

    @property
    def epochs(self) -> float:
        """Length of the run in epochs."""
        horizon = self.learning_rate.schedule.horizon
        return horizon.total_samples / horizon.epoch_samples

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer, to be read; only ``on_update`` may change its state."""
        return self.learning_rate.optimizer

    def load_model(self, folder: Path, *, key: str) -> LoadedModel:
        """Load a trained model, for example a teacher: a model folder, or a run's best; on the CPU, frozen.

        Raises:
            UsageError: there is none, or it is damaged, or not finite; the message calls the folder ``key``.
        """
        loaded = load_model(model_folder_of(folder, key), key)
        refuse_non_finite(loaded.model.state_dict(), f"{key}={folder}")
        loaded.model.requires_grad_(False)
        return loaded


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters with optimizer options of their own, as a hook requests."""

    names: tuple[str, ...]  # as in model.named_parameters()
    options: Mapping[str, Any] = field(default_factory=dict)  # for the optimizer: lr, weight_decay, maximize, ...
    clip: bool = True  # take part in gradient clipping
    scale_lr: bool = True  # follow the linear scaling with the global batch
    compress: bool = True  # may be sparsified by a compressing backend
    schedule: bool = True  # follow the learning-rate schedule
    idle: Callable[[Progress], bool] | None = None
    """Whether the next step leaves these parameters unchanged; depends on the progress alone. None: never.

    Needs ``compress=False``: a compressing backend would send remembered gradients in such a step.
    """

    @staticmethod
    def of(model: nn.Module, part: nn.Module, **rules: Any) -> "ParameterGroup":
        """A group of all trainable parameters of ``part``, a module of ``model``; ``rules`` are the fields above."""
        own = {id(parameter) for parameter in part.parameters() if parameter.requires_grad}
        return ParameterGroup(tuple(name for name, each in model.named_parameters() if id(each) in own), **rules)


class Hook:
    """Base of all hooks: every point is a no-op. Override what the method needs."""

    changes_training: ClassVar[bool] = True
    """False is a promise that the loss curve is bitwise the same without the hook."""

    stage: ClassVar[Stage | None] = None
    """Where ``on_batch`` runs; None for hooks that do not touch batches."""

    needs_lockstep: ClassVar[bool] = False
    """Whether every learner must make every step together: asynchronous backends are then refused."""

    meets_every: int | None = None
    """Global steps between two calls of ``on_meeting``; None: it is never called."""

    comes_after: ClassVar[tuple[str, ...]] = ()
    """Names of hooks that, later in the list, would undo or distort what this one does: such a list is refused."""

    @property
    def lengthens(self) -> float:
        """Largest fraction by which ``on_batch`` lengthens an utterance; ``batch.frame_margin`` makes room for it."""
        return 0.0

    @property
    def lengthens_targets(self) -> float:
        """Largest fraction of tokens, rounded up, that ``on_batch`` adds; ``batch.target_margin`` has room for them."""
        return 0.0

    def transforms(self) -> list[dict[str, Any]]:
        """Nodes of persistent changes of the module tree, applied to the built model in this order before ``on_model``.

        They are written into every model folder (asr/runs/model_folder.py), so that the model is rebuilt without the hook.
        """
        return []

    def on_model(self, model: "SpeechModel") -> "SpeechModel":
        """Runs once, before the backend and the optimizer see the model: attaches what training alone needs.

        Parameters and modules that model folders must contain are added by ``transforms`` instead.
        """
        return model

    def on_auxiliary(self, model: "SpeechModel") -> nn.Module | None:
        """Runs once, after all ``on_model``: a module that trains, mixes and resumes with the model, or None.

        It lies at ``model.auxiliary[<name of the hook>]`` and is in no model folder, no parameter count and no
        ``init_from``. Its parameters take part by ``on_loss``, in every step in which they are not idle.
        """
        return None

    def on_parameter_groups(self, model: "SpeechModel") -> list[ParameterGroup]:
        """Runs once, before the optimizer is built. A group of ``options={"maximize": True}`` ascends."""
        return []

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        """Runs once, after a checkpoint was loaded and before learners are made equal; calibrate here."""

    def on_step_start(self, progress: Progress) -> None:
        """Runs before each step."""

    def passes(self, progress: Progress) -> Sequence[ForwardPass] | None:
        """Which forwards and backwards a step makes of every unit; None: the ordinary one.

        A function of ``progress`` alone: it is asked before each step, after ``on_step_start``, and once before the first,
        for the probe of memory, which thus measures the passes of that step. At most one hook of a run may ask for passes.
        """
        return None

    def on_batch(self, raw: RawBatch) -> None:
        """Runs in the loader, possibly in another process, once per unit at the hook's ``stage``; training only.

        Must be a function of ``raw`` and the hook's construction alone, so that it does not depend on the workers.
        """

    def on_loss(self, batch: Batch, output: "LossOutput", terms: LossTerms) -> None:
        """Runs after each forward of a unit, or of a part of one, inside autocast and the guard of memory.

        Where memory does not suffice in here, the part is halved and both halves are run: nothing may be counted here.
        """

    def on_gradients(self, model: nn.Module, report: GradientReport) -> None:
        """Runs after gradients were reduced and clipped, before the update."""

    def on_update(self, model: "SpeechModel", optimizer: Optimizer) -> None:
        """Runs after the optimizer's step: the only point at which a hook may write parameters or the optimizer's state.

        Under asynchronous gossip the lock is held here, so that no neighbour is sent weights in the middle of a change.
        """

    def on_step_end(self, progress: Progress, metrics: dict[str, float]) -> None:
        """Runs after each step; may add figures to ``metrics``, which is logged at logging steps."""

    def on_meeting(self, progress: Progress) -> None:
        """Runs every ``meets_every`` global steps, on all learners together: collectives of ``run.world`` are allowed."""

    def on_evaluation(self, progress: Progress, metrics: dict[str, float]) -> None:
        """Runs after an evaluation on all learners, while the model holds the consensus weights; may add ``metrics``.

        Inside ``backend.own_weights()`` the model holds this learner's own weights.
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
        """The state that a resume needs: tensors, numbers, strings and containers of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
