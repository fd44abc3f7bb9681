"""A recording of any length as overlapping windows: only one window of it is in memory at a time."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr.data.audio import BadUtterance
from asr.data.resampling import resampler
from distributed.errors import UsageError

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Windows:
    """Length of windows, and what two of them have in common; in seconds."""

    seconds: float
    overlap_seconds: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.seconds):
            raise UsageError(f"window_seconds={self.seconds:g}: must be a finite number of seconds")
        if not 0 < self.overlap_seconds <= self.seconds / 2:
            raise UsageError(
                f"window_seconds={self.seconds:g} and overlap_seconds={self.overlap_seconds:g}: the overlap must be above 0 "
                "and at most half a window"
            )


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of a recording."""

    start: float  # seconds from the start of the recording
    waveform: Tensor  # (samples,) float32 at the rate asked for, full scale at 1
    continues: bool  # whether it overlaps the piece before it


def windows(blocks: Iterable[Samples], rate: int, wanted_rate: int, sizes: Windows) -> Iterator[Window]:
    """Cut a recording that comes in blocks of mono samples at ``rate``; a recording of at most one window is one.

    Each window is resampled by itself. A recording without samples has no window. Where taking a block raises BadUtterance,
    what came before it is cut into windows as if it were all, and the error follows.
    """
    length, step = round(sizes.seconds * rate), round((sizes.seconds - sizes.overlap_seconds) * rate)
    held = np.zeros(0, dtype=np.float32)
    start = 0
    broken: BadUtterance | None = None
    try:
        for block in blocks:
            held = np.concatenate([held, block])
            while len(held) > length:  # so that the last window is never the overlap alone
                yield _window(held[:length], start, rate, wanted_rate)
                held, start = held[step:], start + step
    except BadUtterance as bad:
        broken = bad
    if len(held):
        yield _window(held, start, rate, wanted_rate)
    if broken is not None:
        raise broken


def _window(samples: Samples, start: int, rate: int, wanted_rate: int) -> Window:
    waveform = torch.from_numpy(samples.copy())
    return Window(start / rate, resampler(rate, wanted_rate)(waveform), start > 0)


class Counted:
    """Blocks as they are taken, and how many samples that were."""

    def __init__(self, blocks: Iterable[Samples]) -> None:
        self._blocks = blocks
        self.samples = 0

    def __iter__(self) -> Iterator[Samples]:
        for block in self._blocks:
            self.samples += len(block)
            yield block
