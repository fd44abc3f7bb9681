"""Changing the sampling rate: windowed-sinc interpolation by torchaudio, made cheap for utterances of many lengths."""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from asr.torchaudio_parts import torchaudio_part
from distributed.errors import UsageError

STEP_SAMPLES = 8000  # half a second at 16 kHz
ZEROS, ROLLOFF = 6, 0.99  # torchaudio's: zero crossings of the sinc on either side, and its cutoff
LARGEST_FILTER = 1 << 22  # values of a filter, 16 MiB; 44.1 to 16 kHz has 78,000
FILTERS_KEPT = 16
STREAM_SECONDS = 0.02  # resampled at a time in a stream, which adds as much to its delay


def filter_size(source_rate: int, target_rate: int) -> int:
    """Number of values of the filter between two rates: it grows with their product over the square of their divisor."""
    ratio = Fraction(target_rate, source_rate)
    source, target = ratio.denominator, ratio.numerator
    width = math.ceil(ZEROS * source / (ROLLOFF * min(source, target)))
    return target * (source + 2 * width)


def rate_defect(source_rate: int, target_rate: int) -> str | None:
    """Why audio of ``source_rate`` Hz cannot be resampled to ``target_rate``; None if it can."""
    if source_rate < 1:
        return f"has a sampling rate of {source_rate} Hz; it must be at least 1"
    if source_rate == target_rate or filter_size(source_rate, target_rate) <= LARGEST_FILTER:
        return None
    return (
        f"is sampled at {source_rate} Hz, an odd rate whose filter to {target_rate} Hz is too large; convert the file to "
        f"{target_rate} Hz (sox in.wav -r {target_rate} out.wav), or correct its header if the rate is wrong"
    )


class Resampler:
    """Changes the sampling rate, for utterances of many lengths.

    The convolution library compiles a kernel per length, several times dearer than its use: lengths are padded with
    zeros, which resampling assumes beyond the ends anyway, to whole steps. Only the ratio of the rates matters.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        self._rates = source_rate, target_rate
        self._ratio = Fraction(target_rate, source_rate)

    @cached_property
    def transform(self) -> Callable[[Tensor], Tensor]:
        """The filter itself, (..., samples) to (..., samples at the target rate); UsageError where there is none."""
        if defect := rate_defect(*self._rates):
            raise UsageError(f"audio {defect}")
        made: Callable[[Tensor], Tensor] = torchaudio_part("transforms").Resample(
            self._ratio.denominator, self._ratio.numerator
        )
        return made

    def length(self, num_samples: int) -> int:
        """Number of samples at the target rate for a number of samples at the source rate."""
        return -(-num_samples * self._ratio.numerator // self._ratio.denominator)

    def __call__(self, samples: Tensor) -> Tensor:
        """Resample (samples,) to the target rate; returns the input itself where the rates are equal.

        Raises:
            UsageError: ``rate_defect`` names one.
        """
        if self._ratio == 1:
            return samples
        padded = pad(samples, (0, -len(samples) % STEP_SAMPLES))
        return self.transform(padded)[: self.length(len(samples))].clone()  # a view would keep the padded tensor alive


@lru_cache(maxsize=FILTERS_KEPT)
def resampler(source_rate: int, target_rate: int) -> Resampler:
    """The resampler between two rates, whose filter is computed once, when it is first used."""
    return Resampler(source_rate, target_rate)


class StreamResampler:
    """Changes the sampling rate of samples that come in pieces, to the values that the whole would be given.

    Works on blocks of one length, so that the result does not depend on the sizes of the pieces either.

    Raises:
        UsageError: ``rate_defect`` names one.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        if defect := rate_defect(source_rate, target_rate):
            raise UsageError(f"audio {defect}")
        self.resampler = resampler(source_rate, target_rate)
        ratio = Fraction(target_rate, source_rate)
        source = ratio.denominator
        self.block = source * max(1, round(STREAM_SECONDS * source_rate / source))
        width = math.ceil(ZEROS * source / (ROLLOFF * min(source, ratio.numerator)))
        self.margin = source * -(-width // source)  # samples on either side of a block that its filter sees
        self._per_block = int(self.block * ratio)
        self._skipped = int(self.margin * ratio)
        self._equal = ratio == 1
        self._held = torch.zeros(self.margin)  # the margin before the next block, and what follows it
        self._heard = self._given = 0  # samples of either rate

    def push(self, samples: Tensor) -> Tensor:
        """What can be given of (samples,) at the target rate; the rest follows later."""
        if self._equal:
            return samples
        self._heard += len(samples)
        held, start, made = torch.cat([self._held, samples]), 0, [samples.new_zeros(0)]
        seen = self.block + 2 * self.margin
        while len(held) - start >= seen:
            resampled = self.resampler.transform(held[start : start + seen])
            made.append(resampled[self._skipped : self._skipped + self._per_block])
            start += self.block
        self._held = held[start:].clone()
        self._given += self._per_block * (len(made) - 1)
        return torch.cat(made)

    def end(self) -> Tensor:
        """The rest: the recording ends here."""
        if self._equal:
            return self._held.new_zeros(0)
        missing = self.resampler.length(self._heard) - self._given
        blocks = -(-missing // self._per_block)
        return self.push(torch.zeros(blocks * self.block + self.margin))[:missing]
