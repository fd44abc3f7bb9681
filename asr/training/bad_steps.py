"""Steps whose loss or gradient is not finite: dumped for inspection, counted, and fatal when they do not stop.

bad_batches/step-00000012-learner-0.json          utterance ids, losses, gradient norm, learning rate
bad_batches/step-00000012-learner-0.safetensors   features, lengths and targets of every unit
"""

import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from asr.data.batch import Batch
from asr.runs.progress import Progress
from asr.runs.run_folder import RunFolder
from distributed.backend import GradientReport
from distributed.errors import UserError

MAX_DUMPS = 100  # per learner: a batch that is bad in every epoch must not fill the disk

log = logging.getLogger(__name__)


class TrainingDivergedError(UserError, RuntimeError):
    """Too many steps in a row had a non-finite loss or gradient, or a learner's numbers are not finite any more.

    ``agreed``: whether all learners have found so together. ``learner``: whose numbers they are; None: not known, or those
    of all.
    """

    returns = True

    def __init__(self, message: str, *, agreed: bool, learner: int | None = None) -> None:
        super().__init__(message)
        self.agreed = agreed
        self.learner = learner


class BadSteps:
    """Watches the steps of one learner."""

    def __init__(
        self, folder: Path, learner: int, maximum_in_a_row: int, gather: Callable[[int], list[int]] | None = None
    ) -> None:
        self.folder = RunFolder(folder).bad_batches
        self.learner = learner
        self.maximum_in_a_row = maximum_in_a_row
        self.gather = gather  # World.gather in synchronous schemes, where all learners find a step bad together
        self.total = 0
        self.in_a_row = 0

    def after_step(
        self, report: GradientReport, progress: Progress, batches: list[Batch], losses: list[float], lr: float
    ) -> None:
        """Count the step that ended at ``progress``.

        Raises:
            TrainingDivergedError: ``trainer.max_bad_steps`` steps in a row were bad.
        """
        if report.finite:
            self.in_a_row = 0
            return
        self.total += 1
        self.in_a_row += 1
        if self.total <= MAX_DUMPS:
            try:
                self._dump(report, progress, batches, losses, lr)
            except (OSError, SafetensorError) as error:  # a full disk is no reason to end
                log.warning("the batch of step %d cannot be kept in %s: %s", progress.step, self.folder, error)
        ids = ", ".join(utterance for batch in batches for utterance in batch.utterance_ids)
        log.warning("step %d skipped: loss or gradient is not finite; its utterances: %s", progress.step, ids)
        if self.in_a_row >= self.maximum_in_a_row:
            raise TrainingDivergedError(
                f"{self.in_a_row} steps in a row had a non-finite loss or gradient{self._culprits(losses)} "
                f"(trainer.max_bad_steps={self.maximum_in_a_row}, learning rate {lr:g}); "
                f"the batches are in {self.folder}: look at the newest, or lower optimizer.lr",
                agreed=self.gather is not None,
            )

    def _culprits(self, losses: list[float]) -> str:
        """Names the learners whose own losses are not finite; empty where all or none are."""
        if self.gather is None:
            return ""
        flags = self.gather(int(not all(map(math.isfinite, losses))))
        named = ", ".join(str(rank) for rank, flag in enumerate(flags) if flag)
        return f", of learner {named} alone" if named and not all(flags) else ""

    def _dump(
        self, report: GradientReport, progress: Progress, batches: list[Batch], losses: list[float], lr: float
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{progress.step:08d}-learner-{self.learner}.json"
        units = [
            {"unit": batch.unit, "utterance_ids": batch.utterance_ids, "loss": _readable(loss)}
            for batch, loss in zip(batches, losses, strict=True)
        ]
        record = {
            "step": progress.step,
            "samples": progress.samples,
            "lr": lr,
            "grad_norm": _readable(report.norm),
            "own_loss_finite": all(map(math.isfinite, losses)),
            "units": units,
        }
        path.write_text(json.dumps(record, indent=2))
        tensors = {}
        for position, batch in enumerate(batches):
            for name in ("features", "feature_lengths", "targets", "target_lengths", "predictor_inputs"):
                tensors[f"{position}.{name}"] = getattr(batch, name).contiguous()
        save_file(tensors, path.with_suffix(".safetensors"))

    def state_dict(self) -> dict[str, int]:
        """The counters of bad steps."""
        return {"total": self.total, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the counters."""
        self.total, self.in_a_row = state["total"], state["in_a_row"]


def _readable(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # JSON has no NaN
