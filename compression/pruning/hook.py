"""Structured pruning with L0 regularisation while a trained model trains on (Jiang et al. 2023, arXiv 2305.19549).

Masks of heads, channels, widths and cells train with the model, under a constraint on what the model costs without the
units that they drop. The masks are an auxiliary module: model folders hold the whole model, and the pass ``prune``
(compression/pruning/prune.py) removes what the masks of a checkpoint drop.
"""

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from asr.data.batch import Batch
from asr.models.speech_model import LossOutput, SpeechModel
from asr.runs.progress import Progress
from asr.training.hook import Hook, ParameterGroup, Run
from asr.training.loss_terms import LossTerms
from compression.pruning.costs import Cost, Extent, Scope, counted_sites, full_sizes
from compression.pruning.lagrangian import Multipliers, target_at
from compression.pruning.masked_forward import attach
from compression.pruning.masks import Masks
from compression.pruning.objectives import Counted, Objective
from compression.pruning.units import Kind
from compression.scheme import named
from distributed.errors import UsageError
from distributed.ranges import Count, Fraction, Positive, Probability

KEY = "hooks.structured_pruning."
MISSED = 0.02  # of the cost, by which what is kept may differ from the target before a run's end warns

log = logging.getLogger(__name__)


class Pruning(nn.Module):
    """What trains with the model: masks and multipliers; ``reached`` is 1 in checkpoints of after the target's rise."""

    reached: Tensor

    def __init__(self, masks: Masks) -> None:
        super().__init__()
        self.masks = masks
        self.multipliers = Multipliers()
        self.register_buffer("reached", torch.tensor(0))


class StructuredPruning(Hook):
    """Trains masks until the cost of what they keep is 1 - ``sparsity`` of the whole."""

    comes_after = ("dropconnect",)  # it sets an LSTM's operands to the parameters

    pruning: Pruning
    cost: Cost
    full: float
    total_samples: int

    def __init__(
        self,
        *,
        kinds: list[Kind] | None,
        sparsity: Probability,
        objective: Objective,
        scope: Scope,
        latency: Path | None,
        frames: Count,
        rise: Fraction,
        minimum: Fraction,
        multiple_of: Count,
        initial_dropped: Probability,
        mask_lr: Positive,
        multiplier_lr: Positive,
    ) -> None:
        self.counted = Counted(objective, scope, latency, Extent(frames), KEY)
        if initial_dropped == 0:
            raise UsageError(f"{KEY}initial_dropped must be above 0, or no mask could learn; 0.01 is usual")
        self.kinds, self.sparsity, self.rise = kinds, sparsity, rise
        self.minimum, self.multiple_of, self.initial_dropped = minimum, multiple_of, initial_dropped
        self.mask_lr, self.multiplier_lr = mask_lr, multiplier_lr
        self.target = 0.0

    def on_auxiliary(self, model: SpeechModel) -> nn.Module:
        """The masks, which the model computes with from here on.

        Raises:
            UsageError: the model has no units of a kind, or is quantised, or computes layers again in backward, or the table
                of latencies is of another one, or all that the masks may drop costs less than ``sparsity``.
        """
        if getattr(getattr(model, "encoder", None), "recomputed", None):
            raise UsageError(
                f"{KEY.removesuffix('.')} draws masks for a forward, and activation_checkpointing would compute layers again "
                "without them; leave one of these hooks out"
            )
        with named("hooks.structured_pruning: "):
            found = counted_sites(model, self.kinds, self.counted.scope)
            masks = Masks(found, dropped=self.initial_dropped, minimum=self.minimum, multiple_of=self.multiple_of)
            self.cost = self.counted.cost(model, found)
            self.full = float(self.cost(full_sizes(found)))
            self._refuse_unreachable(masks)
        attach(model, masks)
        self.pruning = Pruning(masks)
        return self.pruning

    def _refuse_unreachable(self, masks: Masks) -> None:
        """Raise UsageError if the least that evaluation may keep costs more than the target: no training could meet it."""
        least = float(self.cost(masks.least_sizes())) / self.full
        if least > 1 - self.sparsity:
            raise UsageError(
                f"sparsity={self.sparsity:g}: {1 - self.sparsity:.1%} of the {self.counted.objective} were to stay and {least:.1%} do at "
                "least; lower sparsity, name more kinds, or lower minimum or multiple_of"
            )

    def on_parameter_groups(self, model: SpeechModel) -> list[ParameterGroup]:
        """Masks descend and multipliers ascend, at rates of their own."""

        def group(part: nn.Module, **options: object) -> ParameterGroup:
            rules = {"clip": False, "scale_lr": False, "compress": False, "schedule": False}
            return ParameterGroup.of(model, part, options=options, **rules)

        return [
            group(self.pruning.masks, lr=self.mask_lr),
            group(self.pruning.multipliers, lr=self.multiplier_lr, maximize=True),
        ]

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        self.total_samples = run.learning_rate.schedule.horizon.total_samples

    def on_step_start(self, progress: Progress) -> None:
        self.target = target_at(progress.samples / self.total_samples, self.sparsity, self.rise)
        self.pruning.reached.fill_(int(self.target == self.sparsity))

    def on_loss(self, batch: Batch, output: LossOutput, terms: LossTerms) -> None:
        if terms.last:
            term = self.pruning.multipliers(1 - self.expected_ratio(), self.target)
            terms.add_per_step("lagrangian", term.to(terms.summed.dtype))

    def expected_ratio(self) -> Tensor:
        """The cost of the sizes that the masks are expected to have, as a fraction of the whole; has a gradient."""
        return self.cost(self.pruning.masks.expected_sizes()) / self.full

    def on_step_end(self, progress: Progress, metrics: dict[str, float]) -> None:
        with torch.no_grad():
            metrics["structured_pruning/expected_ratio"] = float(self.expected_ratio())
        metrics["structured_pruning/target_ratio"] = 1 - self.target

    def kept_sizes(self) -> dict[str, Tensor]:
        """Number of units that evaluation keeps at each site, by its name."""
        return {name: torch.tensor(float(len(units.indices))) for name, units in self.pruning.masks.kept().items()}

    def kept_ratio(self) -> float:
        """The cost of the units that evaluation keeps, as a fraction of the whole."""
        return float(self.cost(self.kept_sizes())) / self.full

    def on_evaluation(self, progress: Progress, metrics: dict[str, float]) -> None:
        """Add the cost of the units that evaluation keeps, as a fraction of the whole, and their fraction at each site."""
        metrics["structured_pruning/kept_ratio"] = self.kept_ratio()
        sizes = self.kept_sizes()
        for site in self.pruning.masks.sites:
            metrics[f"structured_pruning/kept/{site.name}"] = float(sizes[site.name]) / site.size

    def on_fit_end(self, progress: Progress) -> None:
        """Warn where the masks keep more or less than the target: the run was too short for the rates of masks and multipliers."""
        kept, target = self.kept_ratio(), 1 - self.sparsity
        if abs(kept - target) > MISSED:
            log.warning(
                "%s: kept %.1f %% of the %s, not %.1f %%: the masks have not met their target; train longer, change %smask_lr "
                "or multiplier_lr, or remove what meets it: pass=prune %s", KEY.removesuffix("."), 100 * kept,
                self.counted.objective, 100 * target, KEY, " ".join(self._of_pass()),
            )  # fmt: skip

    def _of_pass(self) -> list[str]:
        """The settings with which the pass ``prune`` removes what meets this target."""
        counted = self.counted
        settings = {"sparsity": f"{self.sparsity:g}", "objective": counted.objective, "scope": counted.scope}
        if counted.objective == "milliseconds":
            settings["latency"] = str(counted.latency)
        if counted.objective == "flops":
            settings["frames"] = str(counted.extent.frames)
        return [f"pass.{key}={value}" for key, value in settings.items()]
