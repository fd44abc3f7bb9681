"""SpecAugment: parts of the spectrogram are hidden, so that the model learns to do without any one of them.

Park et al. 2019, arXiv 1904.08779, section 2, without time warping (the least effective part, section 5). Bands of
mel bins and stretches of frames are set to 0, which is the mean of normalised features. As in the paper a stretch is
limited to a fraction of the utterance; here something of every utterance always stays, however short it is.

T feature frames   F mel bins
"""

from typing import ClassVar

import torch
from torch import Tensor

from asr.data.batch import RawBatch, Stage
from asr.training.hook import Hook
from distributed.ranges import Fraction, Natural


def mask(
    features_TF: Tensor,
    generator: torch.Generator,
    *,
    frequency_masks: int,
    frequency_width: int,
    time_masks: int,
    time_width: int,
    time_fraction: float,
) -> Tensor:
    """A copy of normalised features (T, F) with bands and stretches set to 0; widths in bins and in frames.

    Each width is uniform on 0..widest and each place uniform among those that fit. Masks may overlap.
    """
    frames, bins = features_TF.shape
    masked_TF = features_TF.clone()
    for start, end in _intervals(bins, frequency_masks, frequency_width, generator):
        masked_TF[:, start:end] = 0
    longest = min(time_width, int(time_fraction * frames))
    for start, end in _intervals(frames, time_masks, longest, generator):
        masked_TF[start:end] = 0
    return masked_TF


def _intervals(size: int, count: int, widest: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """``count`` random intervals within 0..size whose widths sum to less than ``size``: they cannot cover it all."""
    intervals = []
    left = size - 1
    for _ in range(count):
        width = _uniform(max(0, min(widest, left)), generator)
        start = _uniform(size - width, generator)  # the last place is included, the paper's half-open range is not
        left -= width
        intervals.append((start, start + width))
    return intervals


def _uniform(high: int, generator: torch.Generator) -> int:
    """A random integer, uniform from 0 to ``high``, both included."""
    return int(torch.randint(high + 1, (), generator=generator))


class SpecAugment(Hook):
    """Masks every training utterance; the masks depend on (seed, epoch, utterance, the hook's name) alone."""

    stage: ClassVar[Stage | None] = "normalised"
    comes_after: ClassVar[tuple[str, ...]] = ("length_perturbation",)  # arXiv 2203.15176, section 2: masks stay whole

    def __init__(
        self,
        *,
        frequency_masks: Natural,
        frequency_width: Natural,
        time_masks: Natural,
        time_width: Natural,
        time_fraction: Fraction,
    ) -> None:
        self.frequency_masks = frequency_masks
        self.frequency_width = frequency_width
        self.time_masks = time_masks
        self.time_width = time_width
        self.time_fraction = time_fraction

    def on_batch(self, raw: RawBatch) -> None:
        for position, features_TF in enumerate(raw.signals):
            raw.signals[position] = mask(
                features_TF,
                raw.generator(position),
                frequency_masks=self.frequency_masks,
                frequency_width=self.frequency_width,
                time_masks=self.time_masks,
                time_width=self.time_width,
                time_fraction=self.time_fraction,
            )
