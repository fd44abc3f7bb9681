"""The bench of a slow learner: what it makes of the learners' clocks. The learners themselves are too slow for here."""

import argparse

import pytest

from scripts.bench.straggler import PARTS, cases_of, figures, summarise, table
from scripts.bench.straggler_learner import Case, Outcome

EMULATED, REAL = PARTS


def epoch(
    repetition: int, scheme: str, slowdown: float, seconds: float, first_end: float
) -> tuple[Case, list[Outcome]]:
    """Four learners from 10 s by the host's clock; learner 0 ends last and has done 10 of 100 units."""
    healthy = [Outcome(30, 10.0, 10.0 + first_end) for _ in range(3)]
    return Case(repetition, scheme, slowdown, 100, 0.02), [Outcome(10, 10.0, 10.0 + seconds), *healthy]


def test_figures_are_medians_of_ratios_over_the_same_scheme_with_none_slow():
    """In the second repetition everything took twice as long."""
    measured = [epoch(i, "adpsgd-ring", 1.0, pace * 2.0, pace * 1.5) for i, pace in enumerate((1, 2, 1))]
    measured += [epoch(i, "adpsgd-ring", 10.0, pace * 2.5, pace * 2.0) for i, pace in enumerate((1, 2, 1))]
    rows = summarise(EMULATED, measured, 0.02)
    found = figures(rows)
    assert found["epoch_ratio/adpsgd-ring/10x"] == pytest.approx(2.5 / 2.0)
    assert found["tail_seconds/adpsgd-ring/10x"] == pytest.approx(0.5)
    assert found["healthy_speed/adpsgd-ring/10x"] == pytest.approx(1.5 / 2.0)
    assert found["unit_over_nominal/adpsgd-ring"] == pytest.approx(1.5 / 30 / 0.02)
    assert rows[1]["ideal_ratio"] == pytest.approx(4 / 3.1)
    last = table(rows).splitlines()[-1]
    assert last == "| emulated | adpsgd-ring | 10x | 2.50 | 1.25 | 1.29 | 0.50 | 0.75 | 10 of 100 |"


def test_real_computation_has_figures_of_its_own():
    rows = summarise(REAL, [epoch(0, "allreduce", 1.0, 2.0, 2.0), epoch(0, "allreduce", 5.0, 10.0, 10.0)], 0.02)
    assert figures(rows)["epoch_ratio_real/allreduce/5x"] == pytest.approx(5.0)
    assert rows[1]["ideal_ratio"] == 5.0  # all go at the pace of the slowest


def test_repetitions_are_interleaved_and_every_epoch_has_a_pool_of_its_own():
    options = argparse.Namespace(units=400, unit_ms=20.0, slowdowns=[5.0, 10.0], repetitions=3, quick=False)
    cases = cases_of(EMULATED, options)
    assert len({case.pool for case in cases}) == len(cases) == 3 * 3 * 4
    assert [case.slowdown for case in cases[:3]] == [1.0, 5.0, 10.0]
    assert [case.scheme for case in cases[:12:3]] == list(EMULATED.schemes)
    assert {case.units for case in cases} == {1600}


def test_a_slowdown_that_is_asked_for_twice_is_measured_once():
    """None slow is measured anyway; a second epoch of the same pool would find no units."""
    options = argparse.Namespace(units=400, unit_ms=20.0, slowdowns=[1.0, 5.0, 5.0], repetitions=1, quick=False)
    cases = cases_of(EMULATED, options)
    assert [case.slowdown for case in cases[:3]] == [1.0, 5.0, 1.0]
    assert len({case.pool for case in cases}) == len(cases)
