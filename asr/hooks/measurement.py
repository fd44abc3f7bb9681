"""Base of hooks that measure at evaluations: how often they measure, and on which batches of the plan."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from asr.data.batch import Unit
from asr.data.plan import BatchPlan
from asr.runs.progress import Progress
from asr.training.hook import Hook, Run
from distributed.ranges import Count


def drawn_batches(plan: BatchPlan, epoch: int, seed: int, probe_batches: int) -> tuple[list[Unit], list[list[Unit]]]:
    """Draw a global batch of an epoch, and up to ``probe_batches`` others of the same epoch, keyed by ``seed``."""
    batches = plan.epoch(epoch)
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed)).tolist()
    drawn, *others = (batches[place] for place in order[: 1 + probe_batches])
    return drawn, others


class Measurement(Hook):
    """Measures at every ``every``-th evaluation; the loss curve is bitwise the same without it."""

    changes_training: ClassVar[bool] = False

    def __init__(self, *, every: Count) -> None:
        self.every = every
        self.evaluations = 0
        self.run: Run | None = None

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        """Do nothing; subclasses may refuse a run that cannot be measured."""
        self.run = run

    def on_evaluation(self, progress: Progress, metrics: dict[str, float]) -> None:
        assert self.run is not None
        self.evaluations += 1
        if self.evaluations % self.every == 0:
            metrics |= self.measure(self.run, progress, metrics)

    @abstractmethod
    def measure(self, run: Run, progress: Progress, metrics: Mapping[str, float]) -> dict[str, float]:
        """Compute metrics inside ``backend.consensus()``; collective. ``metrics`` are the evaluation's so far."""

    def state_dict(self) -> dict[str, Any]:
        return {"evaluations": self.evaluations}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.evaluations = state["evaluations"]
