"""Curves over learners: on a common grid, with gaps, with learners that come and go."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.reporting.series import Series, mean, running_total, series, smooth, spread, thin, total


def curve(x: list[float], y: list[float]) -> Series:
    return Series(np.array(x, dtype=float), np.array(y, dtype=float))


def test_a_series_has_the_rows_with_its_key_in_the_order_of_samples() -> None:
    rows = [{"samples": 20, "a": 2.0}, {"samples": 10, "a": 1.0}, {"samples": 30, "b": 9}, {"samples": 40, "a": None}]
    found = series(rows, "a")
    np.testing.assert_array_equal(found.x, [10, 20, 40])
    np.testing.assert_array_equal(found.y, [1, 2, np.nan])


def test_infinities_are_gaps() -> None:
    assert np.isnan(series([{"samples": 1, "a": float("inf")}], "a").y).all()
    assert series([{"samples": 1, "a": "text"}], "a").empty


def test_learners_that_log_together_are_averaged_and_summed_point_by_point() -> None:
    learners = [curve([1, 2, 3], [1, 2, 3]), curve([1, 2, 3], [3, 2, 1])]
    np.testing.assert_array_equal(mean(learners).y, [2, 2, 2])
    np.testing.assert_array_equal(total(learners).y, [4, 4, 4])
    low, high = spread(learners)
    np.testing.assert_array_equal(low.y, [1, 2, 1])
    np.testing.assert_array_equal(high.y, [3, 2, 3])


def test_a_total_over_different_sample_grids_has_no_jumps_at_its_ends() -> None:
    learners = [curve([10, 30, 50], [5, 5, 5]), curve([20, 40, 60], [7, 7, 7])]
    combined = total(learners)
    np.testing.assert_array_equal(combined.x, [10, 20, 30, 40, 50, 60])
    np.testing.assert_allclose(combined.y, 12)


def test_a_learner_that_left_no_longer_counts() -> None:
    learners = [curve([10, 20, 30, 40, 50, 60], [1] * 6), curve([10, 20, 30], [1] * 3)]
    np.testing.assert_allclose(total(learners).y, [2, 2, 2, 2, 1, 1])  # held for one interval
    np.testing.assert_allclose(mean(learners).y, 1)


def test_no_curve_and_gaps_alone_are_empty() -> None:
    assert mean([]).empty
    assert total([curve([1, 2], [np.nan, np.nan])]).empty


@given(st.floats(-5, 5), st.floats(-0.2, 0.2), st.integers(3, 60), st.floats(0.3, 8))
def test_smoothing_keeps_a_constant_and_in_the_middle_an_exponential(level, slope, size, points) -> None:
    x = np.arange(size, dtype=float)
    np.testing.assert_allclose(smooth(Series(x, np.full(size, level)), points).y, level, rtol=1e-9, atol=1e-12)
    decay = smooth(Series(x, np.exp(slope * x)), points).y
    assert decay[size // 2] == pytest.approx(np.exp(slope * (size // 2)), rel=1e-9) or size % 2 == 0


def test_smoothing_takes_noise_away_and_leaves_gaps_out() -> None:
    y = 5 + np.random.default_rng(0).normal(size=400)
    y[100:110] = np.nan
    smoothed = smooth(Series(np.arange(400.0), y), 10)
    assert len(smoothed.x) == 390
    assert smoothed.y.std() < 0.35 * np.nanstd(y)


@given(st.integers(1, 500), st.integers(4, 50))
def test_thinning_keeps_points_of_the_curve_and_loses_no_extreme(size: int, most: int) -> None:
    values = np.random.default_rng(size).normal(size=size)
    curve_of_all = Series(np.arange(float(size)), values)
    thinned = thin(curve_of_all, most)
    assert len(thinned.x) <= max(most, 4)
    assert (np.diff(thinned.x) > 0).all()
    np.testing.assert_array_equal(values[thinned.x.astype(int)], thinned.y)
    assert (thinned.y.min(), thinned.y.max()) == (values.min(), values.max())
    assert (thinned.x[0], thinned.x[-1]) == (0, size - 1)


def test_thinning_keeps_gaps() -> None:
    values = np.where((np.arange(900.0) >= 300) & (np.arange(900) < 600), np.nan, 1.0)
    thinned = thin(Series(np.arange(900.0), values), 30)
    assert np.isnan(thinned.y[(thinned.x >= 310) & (thinned.x < 590)]).all()
    assert np.isnan(thinned.y).any()
    assert np.isfinite(thinned.y[thinned.x < 300]).all()


def test_a_running_total_passes_over_gaps() -> None:
    np.testing.assert_array_equal(running_total(curve([1, 2, 3], [5, np.nan, 7])).y, [5, 5, 12])
