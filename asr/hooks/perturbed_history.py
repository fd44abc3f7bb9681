"""What hooks against exposure bias share: the prediction network reads something else than the truth, in some epochs.

In training it reads what was said, in use what was recognised, errors included. These hooks put errors into
``predictor_inputs`` and leave ``targets`` alone: "label-preserving" in arXiv 2108.10803, section 3.
"""

from abc import abstractmethod
from typing import ClassVar

from asr.data.batch import RawBatch, Stage
from asr.hooks.epochs import HookOfEpochs


class PerturbedHistory(HookOfEpochs):
    """Perturbs what the prediction network reads within its epochs, and says how much of it."""

    stage: ClassVar[Stage | None] = "targets"

    def on_batch(self, raw: RawBatch) -> None:
        if raw.epoch in self.epochs:
            self.perturb(raw)
            raw.metrics[f"{raw.hook}/substitution_rate"] = substitution_rate(raw)

    @abstractmethod
    def perturb(self, raw: RawBatch) -> None:
        """Replace entries of ``raw.predictor_inputs`` by others of the same length, and touch nothing else."""


def substitution_rate(raw: RawBatch) -> float:
    """Tokens read that differ from those to be written, as a part of all; 0 without any."""
    pairs = zip(raw.targets, raw.predictor_inputs, strict=True)
    differing = sum(one != other for tokens, read in pairs for one, other in zip(tokens, read, strict=True))
    return differing / max(1, sum(map(len, raw.targets)))
