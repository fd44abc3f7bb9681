"""Newest steps: what is hidden behind computation, by interval arithmetic."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.reporting.gantt import gantt, intersection, length, shares_of, shown, united
from asr.reporting.run import RunRecord
from asr.runs.timeline import Spell


def steps(*ends: float, start: float = 100.0) -> list[Spell]:
    return [Spell("step", a, b) for a, b in zip([start, *ends], ends, strict=False)]


SPELLS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 9)).map(lambda each: Spell("exchange", each[0], each[0] + each[1])),
    max_size=8,
)


def seconds_of(spells: list[Spell]) -> set[int]:
    return {second for _, start, end in spells for second in range(int(start), int(end))}


@given(SPELLS, SPELLS)
def test_unions_and_intersections_are_those_of_sets_of_seconds(first: list[Spell], second: list[Spell]) -> None:
    one, other = seconds_of(first), seconds_of(second)
    assert length(united(first)) == len(one)
    assert length(intersection(united(first), united(second))) == len(one & other)


def test_an_exchange_behind_computation_is_hidden_and_one_that_is_waited_for_is_not() -> None:
    step = Spell("step", 0.0, 10.0)
    hidden = shares_of([step, Spell("data", 0.0, 1.0), Spell("exchange", 2.0, 6.0)])
    assert (hidden.compute, hidden.data, hidden.waiting, hidden.exchange, hidden.hidden) == (0.9, 0.1, 0.0, 0.4, 1.0)
    half = shares_of([step, Spell("exchange", 2.0, 10.0), Spell("waiting", 6.0, 10.0)])
    assert (half.compute, half.waiting, half.exchange, half.hidden) == (0.6, 0.4, 0.8, 0.5)
    assert math.isnan(shares_of([step]).hidden)


def test_all_learners_are_shown_over_the_same_seconds() -> None:
    fast, slow = steps(*range(101, 121)), steps(105, 110, 115, 120)
    start, lanes = shown({0: fast, 1: slow})
    assert start == pytest.approx(120 - 3.2 * 5)
    assert {learner: (spells[0].start, spells[-1].end) for learner, spells in lanes.items()} == {
        0: (start, 120), 1: (start, 120),
    }  # fmt: skip


def test_learners_of_an_earlier_part_of_the_run_are_left_out() -> None:
    assert list(shown({0: steps(101, 102, 103), 1: steps(11, 12, 13, start=10.0)})[1]) == [0]
    assert shown({}) == (0.0, {})
    assert shown({0: []}) == (0.0, {})


def test_the_picture_has_its_figures_in_words_and_in_a_table() -> None:
    lanes = {0: [*steps(101, 102, 103), Spell("exchange", 102.1, 102.4)], 1: steps(101, 102, 103)}
    markup = gantt(RunRecord("<b>", {}, [], "", {}, {}, timelines=lanes), 3)
    assert "learner 0: compute 100.0\u202f%" in markup
    assert markup.count("exchange under way: 0.3 s") == 1
    assert "<b>" not in markup
    assert gantt(RunRecord("x", {}, [], "", {}, {}), 0) == ""


def test_a_crowd_of_bars_is_a_shorter_time() -> None:
    many = [Spell("exchange", 100 + i * 1e-3, 100 + i * 1e-3 + 1e-4) for i in range(9000)]
    _, lanes = shown({0: [*steps(103, 106, 109), *many]})
    assert sum(map(len, lanes.values())) <= 1600
