"""Allowed ranges of constructor arguments, written where the argument is declared.

A constructor annotates what it accepts, ``lr: Positive``, and whoever reads a configuration can check every value
before anything is built. This module has no dependency, so that every package can use it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from distributed.errors import UsageError


@dataclass(frozen=True, slots=True)
class Range:
    """An interval of numbers; each end is included unless it is said to be open."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.open_low else f"at least {self.low:g}"
        high = f"below {self.high:g}" if self.open_high else f"at most {self.high:g}"
        ends = [text for text, end in ((low, self.low), (high, self.high)) if math.isfinite(end)]
        return " and ".join(ends)


Positive = Annotated[float, Range(low=0, open_low=True)]
NonNegative = Annotated[float, Range(low=0)]
Fraction = Annotated[float, Range(low=0, high=1)]
Share = Annotated[float, Range(low=0, high=1, open_low=True)]  # of something of which nothing would be left at 0
Probability = Annotated[float, Range(low=0, high=1, open_high=True)]  # of dropping something: never everything
Count = Annotated[int, Range(low=1)]
Depth = Annotated[int, Range(low=1, high=1000)]  # of layers, each of which takes time to build whatever its size
Bits = Annotated[int, Range(low=2, high=8)]  # of a quantised number
Natural = Annotated[int, Range(low=0)]


def checked_interval(
    key: str, ends: Sequence[float], low: float = -math.inf, high: float = math.inf
) -> tuple[float, float]:
    """``ends`` as a pair within [low, high]; ``key`` is the configuration key that errors name.

    Raises:
        ValueError: not two numbers, in the wrong order, or beyond the limits.
    """
    values = tuple(ends)
    if len(values) != 2 or not low <= values[0] <= values[1] <= high:
        limits = str(Range(low, high)) or "finite"
        raise UsageError(f"{key} must be [lowest, highest], each {limits}, got {list(values)}")
    return values
