"""Curves as numbers: one learner's figure over the samples, the mean or sum over learners, smoothing, thinning.

Learners of an asynchronous scheme log at sample counts of their own, and a resumed run may have another number of them:
curves are put on a common grid first, each learner counting only where it was there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from asr.reporting.run import number
from asr.runs.metrics import Row

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Series:
    """A curve: ``x`` ascending, ``y`` NaN where the figure is not finite."""

    x: Values
    y: Values

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not np.isfinite(self.y).any()


def series(rows: Sequence[Row], key: str, over: str = "samples") -> Series:
    """The figure ``key`` of one learner over ``over``, from the rows that have it."""
    having = [row for row in rows if key in row]
    x = np.array([number(row, over) for row in having], dtype=np.float64)
    y = np.array([number(row, key) for row in having], dtype=np.float64)
    order = np.argsort(x, kind="stable")
    return Series(x[order], np.where(np.isfinite(y), y, np.nan)[order])


def mean(curves: Sequence[Series]) -> Series:
    """The mean over the learners that are there."""
    return _combined(curves, lambda y_LN, present_LN: y_LN.sum(0) / present_LN.sum(0))


def total(curves: Sequence[Series]) -> Series:
    """The sum over the learners that are there."""
    return _combined(curves, lambda y_LN, _: y_LN.sum(0))


def _combined(curves: Sequence[Series], reduce: Callable[[Values, NDArray[np.bool_]], Values]) -> Series:
    """L curves on the union of their points (N), interpolated, reduced where any of them is there."""
    curves = [curve for curve in curves if not curve.empty]
    if not curves:
        return Series(np.empty(0), np.empty(0))
    x_N = np.unique(np.concatenate([curve.x for curve in curves]))
    y_LN = np.stack([_on_grid(curve, x_N) for curve in curves])
    present_LN = np.isfinite(y_LN)
    some_N = present_LN.any(0)
    return Series(x_N[some_N], reduce(np.where(present_LN, y_LN, 0.0)[:, some_N], present_LN[:, some_N]))


def _on_grid(curve: Series, x_N: Values) -> Values:
    """Interpolated between finite points, and held for one interval before the first and after the last."""
    finite = np.isfinite(curve.y)
    x, y = curve.x[finite], curve.y[finite]
    reach = float(np.median(np.diff(x))) if len(x) > 1 else 0.0
    inside_N = (x_N >= x[0] - reach) & (x_N <= x[-1] + reach)
    return np.where(inside_N, np.interp(x_N, x, y), np.nan)


def smooth(curve: Series, points: float) -> Series:
    """Mean over neighbours weighted by a Gaussian of standard deviation ``points``, with no lag; NaN points left out.

    It is the mean of logarithms where every value is positive: a loss that falls by decades keeps its shape.
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


def thin(curve: Series, most: int) -> Series:
    """At most ``most`` points, each the mean of neighbours: what a plot of that many pixels can show."""
    size = len(curve.x)
    if size <= most:
        return curve
    edges = np.linspace(0, size, most + 1).astype(int)
    slices = [slice(first, last) for first, last in pairwise(edges)]
    y = [float(np.nanmean(curve.y[part])) if np.isfinite(curve.y[part]).any() else np.nan for part in slices]
    return Series(np.array([curve.x[part].mean() for part in slices]), np.array(y))


def spread(curves: Sequence[Series]) -> tuple[Series, Series]:
    """The lowest and the highest of the learners that are there."""
    low = _combined(curves, lambda y_LN, present_LN: np.where(present_LN, y_LN, np.inf).min(0))
    high = _combined(curves, lambda y_LN, present_LN: np.where(present_LN, y_LN, -np.inf).max(0))
    return low, high


def running_total(curve: Series) -> Series:
    """The sum so far of what rows report since the row before."""
    return Series(curve.x, np.nancumsum(curve.y))
