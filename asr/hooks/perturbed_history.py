"""What hooks against exposure bias share: the prediction network reads something else than the truth, in some epochs.

In training it reads what was said, in use what was recognised, errors included. These hooks put errors into
``predictor_inputs`` and leave ``targets`` alone: "label-preserving" in arXiv 2108.10803, section 3.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from asr.data.batch import RawBatch, Stage
from asr.hooks.epochs import HookOfEpochs
from asr.models.speech_model import SpeechModel
from distributed.errors import UsageError


class PerturbedHistory(HookOfEpochs):
    """Perturbs what the prediction network reads within its epochs, and says how much of it."""

    stage: ClassVar[Stage | None] = "targets"
    comes_after: ClassVar[tuple[str, ...]] = ("nbest_label_smoothing",)  # whose labels are read as they are

    def on_model(self, model: SpeechModel) -> SpeechModel:
        """Raises ValueError for a model that reads no history, as one of CTC."""
        if not hasattr(model, "predictor"):
            raise UsageError(
                f"{type(self).__name__} changes what a prediction network reads, and the model has none: take the hook "
                "out of hooks="
            )
        return model

    def on_batch(self, raw: RawBatch) -> None:
        if raw.epoch in self.epochs:
            before = list(raw.predictor_inputs)
            self.perturb(raw)
            raw.metrics[f"{raw.hook}/substitution_rate"] = substitution_rate(before, raw.predictor_inputs)

    @abstractmethod
    def perturb(self, raw: RawBatch) -> None:
        """Put other lists, of the same lengths, in the place of those in ``raw.predictor_inputs``; touch nothing else."""


def substitution_rate(before: Sequence[Sequence[int]], after: Sequence[Sequence[int]]) -> float:
    """Tokens that differ between texts of the same lengths, as a part of all; 0 without any."""
    texts = zip(before, after, strict=True)
    differing = sum(one != other for text, read in texts for one, other in zip(text, read, strict=True))
    return differing / max(1, sum(map(len, before)))
