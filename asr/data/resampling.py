"""Changing the sampling rate: windowed-sinc interpolation by torchaudio, made cheap for utterances of many lengths."""

import math
from fractions import Fraction
from functools import cache

from torch import Tensor
from torch.nn.functional import pad

from asr.torchaudio_parts import torchaudio_part

STEP_SAMPLES = 8000  # half a second at 16 kHz


class Resampler:
    """Changes the sampling rate, for utterances of many lengths.

    The convolution library compiles a kernel per length, several times dearer than its use: lengths are padded with
    zeros, which resampling assumes beyond the ends anyway, to whole steps. Only the ratio of the rates matters.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        self._ratio = Fraction(target_rate, source_rate)
        self._transform = torchaudio_part("transforms").Resample(self._ratio.denominator, self._ratio.numerator)

    def length(self, num_samples: int) -> int:
        """Number of samples at the target rate for a number of samples at the source rate."""
        return math.ceil(num_samples * self._ratio)

    def __call__(self, samples: Tensor) -> Tensor:
        """Resample (samples,) to the target rate; returns the input itself where the rates are equal."""
        if self._ratio == 1:
            return samples
        padded = pad(samples, (0, -len(samples) % STEP_SAMPLES))
        return self._transform(padded)[: self.length(len(samples))].clone()  # a view would keep the padded tensor alive


@cache
def resampler(source_rate: int, target_rate: int) -> Resampler:
    """The resampler between two rates, whose filter is computed once per process."""
    return Resampler(source_rate, target_rate)
