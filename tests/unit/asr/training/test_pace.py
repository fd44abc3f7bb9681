"""Pace: steps per hour from a few units that are timed."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from asr.data.plan import BatchPlan
from asr.training import pace as pace_module
from asr.training.memory import load_of_unit
from asr.training.pace import Pace, measured_pace, units_to_time
from distributed.errors import UsageError


@pytest.fixture
def plan() -> BatchPlan:
    """60 utterances of 20 to 315 frames, in batches of 4 units of 3."""
    return BatchPlan(
        units=4, unit_utterances=3, max_frames=10_000, max_cells=100_000, frame_margin=None, target_margin=None,
        frames=[20 + 5 * index for index in range(60)], target_lengths=[3] * 60,
        utterance_ids=[str(index) for index in range(60)], subsampling=4, lengthening=0.0, seed=1,
    )  # fmt: skip


LINEAR = Pace(frames=[0, 1000], seconds=[0.0, 10.0], reading_seconds=[1.0, 1.0], update_seconds=0.5)


def test_learners_of_an_asynchronous_backend_share_what_one_would_do_alone(plan: BatchPlan) -> None:
    """Seconds follow frames, so that the sum over a batch is that of its padded frames."""
    frames = [sum(load_of_unit(unit, plan).frames for unit in batch) for batch in plan.epoch(0)]
    mean = 0.01 * sum(frames) / len(frames)
    for learners in (1, 2, 4):
        seconds = LINEAR.of_step(plan, learners, lockstep=False, reading=False)
        assert seconds == pytest.approx(mean / learners + 0.5)


def test_in_lockstep_the_slowest_learner_is_waited_for(plan: BatchPlan) -> None:
    alone = LINEAR.of_step(plan, 1, lockstep=True, reading=False)
    assert alone == pytest.approx(LINEAR.of_step(plan, 1, lockstep=False, reading=False))
    longest = [max(load_of_unit(unit, plan).frames for unit in batch) for batch in plan.epoch(0)]
    assert LINEAR.of_step(plan, 4, lockstep=True, reading=False) == pytest.approx(
        0.01 * sum(longest) / len(longest) + 0.5
    )


def test_reading_comes_on_top_in_the_learner_s_own_process(plan: BatchPlan) -> None:
    without = LINEAR.of_step(plan, 2, lockstep=True, reading=False)
    assert LINEAR.of_step(plan, 2, lockstep=True, reading=True) == pytest.approx(without + 2.0), (
        "one second for each of its two units"
    )


def test_the_shortest_and_the_longest_unit_are_timed(plan: BatchPlan) -> None:
    frames = [load_of_unit(unit, plan).frames for batch in plan.epoch(0) for unit in batch]
    timed = [load_of_unit(unit, plan).frames for unit in units_to_time(plan)]
    assert timed[0] == min(frames)
    assert timed[-1] == max(frames)
    assert timed == sorted(set(timed))


def test_what_is_timed_is_reading_computing_twice_and_updates(plan: BatchPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = itertools.count(), []
    monkeypatch.setattr(pace_module.time, "perf_counter", lambda: float(next(clock)))

    def load(unit: Any) -> Any:
        calls.append("load")
        return SimpleNamespace(utterance_ids=unit.utterances)

    found = measured_pace(plan, load, lambda _: calls.append("compute"), lambda: calls.append("update"))
    number = len(found.frames)
    assert calls == ["load", "compute", "compute"] * number + ["update", "update"]
    assert (found.seconds, found.reading_seconds, found.update_seconds) == ([1.0] * number, [1.0] * number, 1.0)


def test_units_without_a_usable_utterance_have_no_pace(plan: BatchPlan) -> None:
    with pytest.raises(UsageError, match=r"none of the 4 units that were read, .* has a usable utterance"):
        measured_pace(plan, lambda _: SimpleNamespace(utterance_ids=[]), lambda _: None, lambda: None)
