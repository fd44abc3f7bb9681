"""Curves as numbers: one learner's metric over the samples, the mean or sum over learners, smoothing, thinning.

Learners of an asynchronous scheme log at sample counts of their own, and a resumed run may have another number of them:
curves are interpolated to a common grid first, and each learner counts only where it has data.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from asr.runs.costs import number
from asr.runs.metrics import Row

Values = NDArray[np.float64]

SMOOTHING_FRACTION = 1 / 60  # standard deviation of the smoothing, as a fraction of a curve's points
LEAST_SMOOTHING_POINTS = 2.0  # least standard deviation, where a curve has enough points


@dataclass(frozen=True, slots=True)
class Series:
    """A curve: ``x`` ascending, ``y`` NaN where the metric is not finite."""

    x: Values
    y: Values

    @property
    def empty(self) -> bool:
        """True if there is nothing to draw."""
        return not np.isfinite(self.y).any()


def series(rows: Sequence[Row], key: str, over: str = "samples") -> Series:
    """The metric ``key`` of one learner over the metric ``over``, from the rows that have it."""
    having = [row for row in rows if key in row]
    x = np.array([number(row, over) for row in having], dtype=np.float64)
    y = np.array([number(row, key) for row in having], dtype=np.float64)
    order = np.argsort(x, kind="stable")
    return Series(x[order], np.where(np.isfinite(y), y, np.nan)[order])


def mean(curves: Sequence[Series]) -> Series:
    """The mean over the learners that have data at a point."""
    return _combined(curves, lambda y_LN, present_LN: y_LN.sum(0) / present_LN.sum(0))


def total(curves: Sequence[Series]) -> Series:
    """The sum over the learners that have data at a point."""
    return _combined(curves, lambda y_LN, _: y_LN.sum(0))


def _combined(curves: Sequence[Series], reduce: Callable[[Values, NDArray[np.bool_]], Values]) -> Series:
    """Interpolate L curves to the union of their N points and reduce them where any of them has data."""
    curves = [curve for curve in curves if not curve.empty]
    if not curves:
        return Series(np.empty(0), np.empty(0))
    x_N = np.unique(np.concatenate([curve.x for curve in curves]))
    y_LN = np.stack([_on_grid(curve, x_N) for curve in curves])
    present_LN = np.isfinite(y_LN)
    some_N = present_LN.any(0)
    return Series(x_N[some_N], reduce(np.where(present_LN, y_LN, 0.0)[:, some_N], present_LN[:, some_N]))


def _on_grid(curve: Series, x_N: Values) -> Values:
    """Interpolate between finite points and extend by one interval before the first and after the last point."""
    finite = np.isfinite(curve.y)
    x, y = curve.x[finite], curve.y[finite]
    reach = float(np.median(np.diff(x))) if len(x) > 1 else 0.0
    inside_N = (x_N >= x[0] - reach) & (x_N <= x[-1] + reach)
    return np.where(inside_N, np.interp(x_N, x, y), np.nan)


def smooth(curve: Series, points: float) -> Series:
    """Smooth without lag by a Gaussian of standard deviation ``points``; NaN points are left out.

    Logarithms are averaged where every value is positive, so that a loss that falls by decades keeps its shape.
    """
    keep = np.isfinite(curve.y)
    x, y = curve.x[keep], curve.y[keep]
    logarithmic = bool((y > 0).all())
    reach = min(int(3 * points), len(y) - 1)
    if reach < 1:
        return Series(x, y)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / points) ** 2)
    levels = np.log(y) if logarithmic else y
    # mode "full", cut by hand: "same" would give the kernel's length where the curve is shorter
    sums = np.convolve(levels, kernel)[reach:-reach]
    smoothed = sums / np.convolve(np.ones_like(y), kernel)[reach:-reach]
    return Series(x, np.exp(smoothed) if logarithmic else smoothed)


def smoothed(curve: Series) -> Series:
    """The curve as charts show it, smoothed by a Gaussian whose width goes with its number of points."""
    size = len(curve.x)
    return smooth(curve, max(size * SMOOTHING_FRACTION, min(LEAST_SMOOTHING_POINTS, size / 15)))


def thin(curve: Series, most: int) -> Series:
    """Reduce to at most ``most`` points (but 4), as many as a plot of that width can show, without losing an extreme.

    Neighbours are put together, and the lowest and the highest of them stay where they are; so do the first and the last
    point, and a group without any value stays a gap.
    """
    size = len(curve.x)
    if size <= max(most, 4):
        return curve
    edges = np.linspace(1, size - 1, max((most - 2) // 2, 1) + 1).astype(int)
    kept = [0, size - 1]
    for first, last in pairwise(edges):
        y = curve.y[first:last]
        if np.isfinite(y).any():
            kept += [first + int(np.nanargmin(y)), first + int(np.nanargmax(y))]
        elif len(y):
            kept.append(first)
    places = np.unique(kept)
    return Series(curve.x[places], curve.y[places])


def spread(curves: Sequence[Series]) -> tuple[Series, Series]:
    """The lowest and the highest value of the learners that have data at a point."""
    low = _combined(curves, lambda y_LN, present_LN: np.where(present_LN, y_LN, np.inf).min(0))
    high = _combined(curves, lambda y_LN, present_LN: np.where(present_LN, y_LN, -np.inf).max(0))
    return low, high


def running_total(curve: Series) -> Series:
    """The running total of a metric whose rows hold the amount since the row before."""
    return Series(curve.x, np.nancumsum(curve.y))
