"""Learning rates driven by GLOBAL SAMPLES: utterances that all learners together have processed.

A schedule is a factor on the peak rate. It counts samples, not steps, so that it does not depend on the number of
learners, on accumulation, or on how an asynchronous scheme shares out the work. The linear scaling rule
(Goyal et al. 2017, arXiv 1706.02677) multiplies the peak by nominal batch / ``reference_batch``.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch.optim import Optimizer

from distributed.errors import UsageError
from distributed.ranges import Count, Fraction, Natural, Positive, Range

Warmup = Annotated[float, Range(low=0, high=1, open_high=True)]  # fraction of the run, below 1


@dataclass(frozen=True, slots=True)
class Horizon:
    """The extent of a run, in utterances of all learners together."""

    total_samples: int
    epoch_samples: int
    batch_samples: int  # nominal global batch

    def __post_init__(self) -> None:
        for name in ("total_samples", "epoch_samples", "batch_samples"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}: is the training set empty?")


class Schedule(ABC):
    """A factor on the peak learning rate as a function of global samples."""

    def __init__(self, *, reference_batch: Count | None, horizon: Horizon) -> None:
        self.reference_batch = reference_batch
        self.horizon = horizon

    @property
    def peak_scale(self) -> float:
        """Linear scaling of the peak: 32 for a batch of 8192 where ``reference_batch`` is 256; 1 without one."""
        return self.horizon.batch_samples / self.reference_batch if self.reference_batch else 1.0

    @abstractmethod
    def factor(self, samples: float) -> float:
        """The factor on the peak rate after ``samples`` samples."""


class Constant(Schedule):
    """The peak rate throughout."""

    def factor(self, samples: float) -> float:
        return 1.0


class OneCycle(Schedule):
    """Up in a straight line from ``start_factor`` to 1, then down to ``final_factor`` at the end of the run.

    The shape of Smith & Topin 2019 (arXiv 1708.07120) in two phases. t = samples / total, w = ``warmup_fraction``:
    t < w: start + (1 - start) t / w;   else, with u = (t - w) / (1 - w): final + (1 - final) (1 - u), or
    final + (1 - final) (1 + cos(pi u)) / 2.
    """

    def __init__(
        self,
        *,
        warmup_fraction: Warmup,
        start_factor: Fraction,
        final_factor: Fraction,
        anneal: Literal["linear", "cosine"],
        reference_batch: Count | None,
        horizon: Horizon,
    ) -> None:
        super().__init__(reference_batch=reference_batch, horizon=horizon)
        self.warmup_fraction = warmup_fraction
        self.start_factor = start_factor
        self.final_factor = final_factor
        self.anneal = anneal

    def factor(self, samples: float) -> float:
        t = min(samples / self.horizon.total_samples, 1.0)
        if t < self.warmup_fraction:
            return self.start_factor + (1 - self.start_factor) * t / self.warmup_fraction
        u = (t - self.warmup_fraction) / (1 - self.warmup_fraction)
        remaining = 1 - u if self.anneal == "linear" else (1 + math.cos(math.pi * u)) / 2
        return self.final_factor + (1 - self.final_factor) * remaining


class Noam(Schedule):
    """Up in a straight line, then down with the square root (Vaswani et al. 2017, arXiv 1706.03762, section 5.3).

    With n = samples / nominal batch and w = ``warmup_steps``: min((n + 1) / w, sqrt(w / (n + 1))). The peak is 1, at
    the end of the warm-up; the paper's factor 1 / sqrt(width) is part of the optimizer's rate.
    """

    def __init__(self, *, warmup_steps: Count, reference_batch: Count | None, horizon: Horizon) -> None:
        super().__init__(reference_batch=reference_batch, horizon=horizon)
        self.warmup_steps = warmup_steps

    def factor(self, samples: float) -> float:
        step = samples / self.horizon.batch_samples + 1
        return min(step / self.warmup_steps, math.sqrt(self.warmup_steps / step))


class WarmupAnneal(Schedule):
    """Linear warm-up over whole epochs, then a smaller rate every few epochs (Cui et al. 2021, arXiv 2110.11199, IV-B).

    With e = samples / epoch, w = ``warmup_epochs``, h = w + ``hold_epochs`` and s = ``anneal_every_epochs``:
    start + (1 - start) e / w for e < w, 1 up to h, afterwards 2 ^ (-s (floor((e - h) / s) + 1) / halving_epochs): epochs h to
    h + s - 1, counted from 0, are the first annealed ones. From epoch ``raised_from`` on all of it times ``raise_factor``, as where regularisation is lifted for the last epochs (Cui et al. 2021,
    arXiv 2108.10803, section 4; 2022, arXiv 2203.15176, section 4).
    """

    def __init__(
        self,
        *,
        warmup_epochs: Count,
        hold_epochs: Natural,
        start_factor: Fraction,
        halving_epochs: Positive,
        anneal_every_epochs: Count,
        raised_from: Natural | None,
        raise_factor: Positive,
        reference_batch: Count | None,
        horizon: Horizon,
    ) -> None:
        super().__init__(reference_batch=reference_batch, horizon=horizon)
        self.warmup_epochs = warmup_epochs
        self.hold_epochs = hold_epochs
        self.start_factor = start_factor
        self.halving_epochs = halving_epochs
        self.anneal_every_epochs = anneal_every_epochs
        self.raised_from = raised_from
        self.raise_factor = raise_factor

    def factor(self, samples: float) -> float:
        epochs = samples / self.horizon.epoch_samples
        raised = self.raise_factor if self.raised_from is not None and epochs >= self.raised_from else 1.0
        if epochs < self.warmup_epochs:
            return raised * (self.start_factor + (1 - self.start_factor) * epochs / self.warmup_epochs)
        width = self.anneal_every_epochs
        steps = max(0, (math.floor(epochs) - self.warmup_epochs - self.hold_epochs) // width + 1)
        return raised * float(2 ** (-steps * width / self.halving_epochs))


class LearningRate:
    """Sets the rate of every group from its own peak, which it stores as ``initial_lr`` when it is built.

    Groups with ``schedule=False`` keep a constant rate, groups with ``scale_lr=False`` are not scaled with the batch.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule) -> None:
        self.optimizer = optimizer
        self.schedule = schedule
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.set(0)

    def set(self, samples: float) -> None:
        """Put the rates for the step that begins after ``samples`` global samples into the optimizer."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(group, samples)

    def _rate(self, group: dict[str, Any], samples: float) -> float:
        scale = self.schedule.peak_scale if group.get("scale_lr", True) else 1.0
        factor = self.schedule.factor(samples) if group.get("schedule", True) else 1.0
        return float(group["initial_lr"] * scale * factor)

    def at(self, samples: float) -> float:
        """The rate of the first group, the one of the model's ordinary weights, after ``samples`` global samples."""
        return self._rate(self.optimizer.param_groups[0], samples)

    @property
    def current(self) -> float:
        """The rate of the first group in this learner's last step; it differs between learners without lockstep."""
        return float(self.optimizer.param_groups[0]["lr"])
