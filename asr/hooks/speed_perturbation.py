"""Speed perturbation: utterances are spoken faster and slower, so that there are more speakers than were recorded.

Ko et al. 2015, "Audio augmentation for speech recognition" (Interspeech): the signal x(t) becomes x(a t),
which changes tempo and pitch together, as ``sox speed`` and Kaldi's ``perturb_data_dir_speed`` do. It is resampling:
samples at f Hz are taken for such at a x f Hz, and brought back to f. The paper's factors are 0.9, 1.0 and 1.1.
"""

from fractions import Fraction
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from asr.data.batch import RawBatch, Stage
from asr.data.resampling import resampler
from asr.training.hook import Hook
from distributed.ranges import Range

PRECISION = 100  # factors are multiples of 1 / PRECISION: the filter has as many phases

Factor = Annotated[float, Range(low=0.5, high=2.0)]


def change_speed(waveform: Tensor, factor: float) -> Tensor:
    """x(t) to x(factor t): (samples,) to (ceil(samples / factor),), above 1 faster and higher.

    ``factor`` is taken as the nearest multiple of 1 / ``PRECISION``; 1 gives the very same samples.
    """
    ratio = Fraction(round(factor * PRECISION), PRECISION)
    return resampler(ratio.numerator, ratio.denominator)(waveform)


class SpeedPerturbation(Hook):
    """Gives every training utterance one of the speeds, drawn anew in every epoch, each as likely as the others."""

    stage: ClassVar[Stage | None] = "waveform"

    def __init__(self, *, factors: list[Factor]) -> None:
        if not factors or any(abs(factor * PRECISION - round(factor * PRECISION)) > 1e-9 for factor in factors):
            raise ValueError(
                f"hooks.speed_perturbation.factors must be one or more multiples of {1 / PRECISION:g}, got {factors}; "
                "round them, e.g. [0.9, 1.0, 1.1]"
            )
        self.factors = list(factors)

    @property
    def lengthens(self) -> float:
        """The slowest speed makes the longest utterance."""
        return max(0.0, 1.0 / min(self.factors) - 1.0)

    def on_batch(self, raw: RawBatch) -> None:
        for position, waveform in enumerate(raw.signals):
            chosen = int(torch.randint(len(self.factors), (), generator=raw.generator(position)))
            raw.signals[position] = change_speed(waveform, self.factors[chosen])
