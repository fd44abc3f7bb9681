"""Base of hooks against exposure bias: in some epochs the prediction network reads a perturbed transcript.

In training it reads the transcript, in decoding the recognised tokens, errors included. These hooks put errors into
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
    """Perturbs the inputs of the prediction network within its epochs, and logs the fraction of changed tokens."""

    stage: ClassVar[Stage | None] = "targets"
    comes_after: ClassVar[tuple[str, ...]] = ("nbest_label_smoothing",)  # whose labels are read as they are

    def on_model(self, model: SpeechModel) -> SpeechModel:
        """Raises ValueError for a model that reads no history, such as a CTC model."""
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
        """Replace the lists in ``raw.predictor_inputs`` by perturbed ones of the same lengths; change nothing else."""


def substitution_rate(before: Sequence[Sequence[int]], after: Sequence[Sequence[int]]) -> float:
    """Fraction of tokens that differ between texts of the same lengths; 0 if there are no tokens."""
    texts = zip(before, after, strict=True)
    differing = sum(one != other for text, read in texts for one, other in zip(text, read, strict=True))
    return differing / max(1, sum(map(len, before)))
