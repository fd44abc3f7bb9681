"""Calibration: the first bounds of quantised inputs, from what the layers of the model read on some batches.

Each utterance is run alone and without augmentation, so that no padding counts, and with quantised weights and unquantised
activations. Learned bounds begin at the mean over utterances of the values that 0.1 % lie beyond, those of MAX at the
largest value. Bounds that have been calibrated, here or in the run that the weights come from, are left as they are.
"""

from collections.abc import Iterable
from itertools import islice

from torch import nn

from asr.data.batch import Batch
from asr.models.speech_model import SpeechModel
from asr.training.inference import Inference
from compression.quantization.activations import LearnedBounds
from distributed.errors import UsageError


def uncalibrated(model: nn.Module) -> dict[str, LearnedBounds]:
    """The quantisers whose bounds are to be calibrated, by their names in the model."""
    return {
        name: each for name, each in model.named_modules() if isinstance(each, LearnedBounds) and not each.calibrated
    }


def calibrate(inference: Inference[SpeechModel], batches: Iterable[Batch], count: int) -> None:
    """Set the bounds that are not calibrated yet from the first ``count`` batches that have utterances.

    Raises:
        UsageError: there is no utterance, or a layer read nothing, or what it read is not finite.
    """
    waiting = uncalibrated(inference.model)
    if not waiting:
        return
    for each in waiting.values():
        each.seen = []
    try:
        for batch in islice((each for each in batches if each.utterance_ids), count):
            inference.ask(batch, lambda moved: run_alone(inference.model, moved))
        ranges = {name: each.seen for name, each in waiting.items()}
    finally:
        for each in waiting.values():
            each.seen = None
    for name, each in waiting.items():
        _set(name, each, ranges[name])


def run_alone(model: SpeechModel, batch: Batch) -> None:
    """Compute the loss of each utterance by itself, cut to its own length."""
    for place in range(len(batch.utterance_ids)):
        model(batch.part(place, place + 1))


def _set(name: str, bounds: LearnedBounds, seen: list[tuple[float, float]] | None) -> None:
    if not seen:
        raise UsageError(f"{name} read nothing in calibration; give a training split with utterances")
    lowest, highest = [low for low, _ in seen], [high for _, high in seen]
    if bounds.kind.startswith("max"):
        bounds.set_bounds(min(lowest), max(highest))
    else:
        bounds.set_bounds(sum(lowest) / len(seen), sum(highest) / len(seen))
