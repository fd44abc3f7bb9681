"""Paces are functions of learner and unit with the mean that they are given."""

import statistics

import pytest

from distributed.simulate.pace import Beside, Constant, LogNormal, Straggler


def test_a_lognormal_pace_has_its_mean_and_spread_and_is_repeatable() -> None:
    pace = LogNormal(2.0, 0.3, seed=1)
    draws = [pace.seconds(learner, unit) for learner in range(20) for unit in range(100)]
    assert statistics.mean(draws) == pytest.approx(2.0, rel=0.03)
    assert statistics.stdev(draws) / 2.0 == pytest.approx(0.307, rel=0.08)  # sqrt(exp(0.3^2) - 1)
    assert draws[105] == LogNormal(2.0, 0.3, seed=1).seconds(1, 5)
    assert draws[105] != LogNormal(2.0, 0.3, seed=2).seconds(1, 5)


def test_a_straggler_is_slower_on_its_units_alone() -> None:
    pace = Beside(Straggler(Constant(2.0), 5.0, learner=1), 0.5)
    assert [pace.seconds(learner, 0) for learner in range(3)] == [2.5, 10.5, 2.5]
