"""Learners over time: every second of a run is in the picture once."""

from typing import Any

import numpy as np
import pytest

from asr.reporting.run import RunRecord, read_run
from asr.reporting.time_picture import UNFOLDED, lanes_of, shares, time_picture, time_section


def record_of(*learners: list[dict[str, Any]]) -> RunRecord:
    return RunRecord("run", dict(enumerate(learners)), [], "", {}, {})


def row(step: int, seconds: float, compute: float, data: float = 0.0, exposed: float = 0.0) -> dict[str, Any]:
    parts = {"time/compute": compute, "time/data_wait": data, "time/comm_exposed": exposed}
    return {"step": step, "samples": step, "wall_seconds": seconds, "time/step": compute + data + exposed} | parts


def test_parts_are_where_they_were_and_fill_every_bin() -> None:
    rows = [
        row(10, 10.0, 0.5, 0.25, 0.25),
        {"step": 10, "samples": 10, "wall_seconds": 20.0, "eval/dev/wer": 1.0},
        row(20, 40.0, 1.0),
    ]
    found = shares(record_of(rows), 0, np.linspace(0, 40, 5))
    np.testing.assert_allclose(found.T, [[0.5, 0.25, 0.25, 0], [0, 0, 0, 1], [0.5, 0, 0, 0.5], [0.5, 0, 0, 0.5]])


def test_bins_after_a_learners_last_row_are_empty() -> None:
    edges, lanes = lanes_of(record_of([row(10, 10.0, 1.0)], [row(40, 40.0, 1.0)]))
    first, second = lanes[0].shares_PB.sum(0), lanes[1].shares_PB.sum(0)
    np.testing.assert_allclose(second, 1)
    np.testing.assert_allclose((first * np.diff(edges)).sum(), 10)
    assert first[-1] == 0


@pytest.mark.parametrize("steps", [30, 10])
def test_steps_that_seem_to_take_longer_than_their_time_are_scaled(steps: int) -> None:
    found = shares(record_of([row(steps, 10.0, 0.6, 0.6)]), 0, np.array([0.0, 10.0]))
    np.testing.assert_allclose(found[:, 0], [0.5, 0.5, 0, 0])


def test_the_picture_says_its_shares_in_words(make_run) -> None:
    record = read_run(make_run(learners=2))
    markup = time_picture(record, 0)
    assert "Learners over time. learner 0: compute" in markup
    assert markup.count("<title>learner 1, ") > 10
    assert time_picture(record_of([{"samples": 1, "wall_seconds": 1.0}]), 0) == ""


def test_pictures_of_many_runs_are_folded_away_but_for_the_first(make_run) -> None:
    record = read_run(make_run(learners=1, steps=60, utterances=0))
    markup = time_section([record] * (UNFOLDED + 1))
    assert markup.count("<details") == UNFOLDED + 1
    assert markup.count("<details open") == UNFOLDED
