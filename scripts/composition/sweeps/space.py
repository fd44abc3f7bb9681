"""The values that a sweep tries, in Hydra's syntax: a,b  choice(a,b)  glob(*)  range(1,5)  interval(0,1)  tag(log,interval(1e-4,1)).

Ends of an interval are included, those of a range as in Python. int(interval(1,8)) has whole numbers.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, Sweep, ValueType
from hydra.errors import HydraException

from distributed.errors import UsageError

Value = str | int | float  # listed values as they are written, numbers of an interval as they are
Values = Mapping[str, Value]  # of a trial, by key


@dataclass(frozen=True, slots=True)
class Listed:
    """A key with a list of values, as Hydra writes them."""

    key: str
    values: Sequence[str]


@dataclass(frozen=True, slots=True)
class Interval:
    """A key with all numbers between two."""

    key: str
    low: float
    high: float
    whole: bool
    log: bool  # drawn evenly by ratio


Axis = Listed | Interval


@dataclass(frozen=True, slots=True)
class Space:
    """What is the same in all trials, and what differs."""

    fixed: Sequence[str]  # overrides
    axes: Sequence[Axis]

    def overrides(self, values: Values) -> list[str]:
        """The overrides of a trial."""
        return [*self.fixed, *(f"{key}={value}" for key, value in values.items())]

    @property
    def is_grid(self) -> bool:
        """Whether all values are listed."""
        return all(isinstance(axis, Listed) for axis in self.axes)

    @property
    def size(self) -> int:
        """Number of combinations; UsageError if there are infinitely many."""
        return math.prod(len(axis.values) for axis in self._listed())

    def grid(self) -> Iterator[dict[str, Value]]:
        """Every combination; the values of the last key change first."""
        axes = self._listed()
        for values in itertools.product(*(axis.values for axis in axes)):
            yield {axis.key: value for axis, value in zip(axes, values, strict=True)}

    def _listed(self) -> list[Listed]:
        listed = [axis for axis in self.axes if isinstance(axis, Listed)]
        if len(listed) < len(self.axes):
            key = next(axis.key for axis in self.axes if isinstance(axis, Interval))
            raise UsageError(
                f"{key}=interval(...) has no end of values for a grid: set trials= and sampler=tpe or random"
            )
        return listed

    def each_value_once(self) -> Iterator[dict[str, Value]]:
        """Few trials in which every listed value and every end of an interval appears, to check all of them."""
        ends = {axis.key: _ends(axis) for axis in self.axes}
        for place in range(max(map(len, ends.values()))):
            yield {key: values[min(place, len(values) - 1)] for key, values in ends.items()}


def _ends(axis: Axis) -> Sequence[Value]:
    if isinstance(axis, Listed):
        return axis.values
    return (int(axis.low), int(axis.high)) if axis.whole else (axis.low, axis.high)


def read_space(overrides: Sequence[str], options: Callable[[str], Sequence[str]]) -> Space:
    """The space that overrides describe; ``options`` gives the choices of a group, for glob(*).

    Raises:
        UsageError: none of them has several values, or one cannot be used.
        OverrideParseException: one is no override.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    axes = [_axis(each, options) for each in parsed if each.is_sweep_override()]
    fixed = [str(each.input_line) for each in parsed if not each.is_sweep_override()]
    if not axes:
        raise UsageError("nothing to try: give a key several values, such as optimizer.lr=0.001,0.002")
    keys = [axis.key for axis in axes] + [each.get_key_element() for each in parsed if not each.is_sweep_override()]
    if doubled := sorted({axis.key for axis in axes if keys.count(axis.key) > 1}):
        raise UsageError(f"{doubled[0]} is set twice: give all its values at once")
    return Space(fixed, axes)


def _axis(override: Override, options: Callable[[str], Sequence[str]]) -> Axis:
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        low, high, log = value.start, value.end, "log" in value.tags
        assert low is not None
        assert high is not None
        if not (math.isfinite(low) and math.isfinite(high) and low < high) or (log and low <= 0):
            raise UsageError(
                f"{override.input_line}: the second number must be above the first{', and both above 0' if log else ''}"
            )
        return Interval(key, low, high, whole=isinstance(low, int) and isinstance(high, int), log=log)
    return Listed(key, _listed(override, value, options))


def _listed(override: Override, value: object, options: Callable[[str], Sequence[str]]) -> list[str]:
    if isinstance(value, Sweep) and getattr(value, "shuffle", False):
        raise UsageError(
            f"{override.input_line}: values are tried in the order in which they are given; leave shuffle out"
        )
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        assert isinstance(value, Glob)
        values = value.filter(list(options(override.key_or_group)))
    else:
        try:
            values = [str(each) for each in override.sweep_string_iterator()]
        except HydraException as error:
            raise UsageError(f"{override.input_line}: {str(error).splitlines()[0]}") from None
    if not values:
        raise UsageError(f"{override.input_line}: no value fits")
    if len(set(values)) < len(values):
        raise UsageError(f"{override.input_line}: a value is given twice")
    return values
