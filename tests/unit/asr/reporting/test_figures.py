"""The figures by which runs are compared, against figures worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest

from asr.reporting.figures import (
    best_evaluation,
    exposed_part,
    payload_per_step,
    per_step,
    samples_per_second,
    smoothed_end,
)
from asr.reporting.run import RunRecord


def record_of(*learners: list[dict[str, Any]]) -> RunRecord:
    return RunRecord("run", dict(enumerate(learners)), [], "", {}, {})


def row(step: int, **figures: float) -> dict[str, Any]:
    return {"step": step, "global_step": step, "samples": 16 * step} | {
        key.replace("__", "/"): value for key, value in figures.items()
    }


TWO = record_of(
    [
        row(10, time__step=1.0, time__comm_exposed=0.5, comm__bytes_sent=1100.0, comm__control_bytes_sent=100.0),
        row(40, time__step=2.0, time__comm_exposed=0.5, comm__bytes_sent=3000.0, comm__control_bytes_sent=0.0),
    ],
    [row(40, time__step=1.0, time__comm_exposed=0.25, comm__bytes_sent=4000.0)],
)


def test_a_mean_per_step_weighs_rows_by_their_steps() -> None:
    assert per_step(TWO, "time/step") == pytest.approx((10 * 1 + 30 * 2 + 40 * 1) / 80)
    assert exposed_part(TWO) == pytest.approx((40 * 0.5 + 40 * 0.25) / 110)
    assert math.isnan(per_step(TWO, "time/unknown"))


def test_payload_is_without_what_is_not_of_the_exchange() -> None:
    assert payload_per_step(TWO) == pytest.approx((1000 + 3000 + 4000) / 80)
    assert math.isnan(payload_per_step(record_of([row(1)])))


def test_samples_per_second_are_of_all_learners_together() -> None:
    assert samples_per_second(TWO) == pytest.approx(640 / 70)
    assert math.isnan(samples_per_second(record_of([])))


def test_the_end_of_a_curve_is_not_its_newest_row() -> None:
    noise = np.random.default_rng(0).normal(size=600)
    rows = [row(step, train__loss=5 + noise[step]) for step in range(600)]
    rows[-1]["train/loss"] = 30.0
    assert abs(smoothed_end(record_of(rows), "train/loss") - 5) < 3.2
    assert smoothed_end(record_of([row(1, train__loss=2.0)]), "train/loss") == 2.0


def test_the_best_evaluation_is_the_earliest_of_the_lowest() -> None:
    rows = [row(step, eval__dev__wer=wer) for step, wer in ((10, 0.5), (20, 0.2), (30, math.nan), (40, 0.2))]
    best = best_evaluation(record_of([*rows, row(5, eval__test__wer=0.1)]))
    assert best is not None
    assert (best.set_name, best.measure, best.value, best.global_step) == ("dev", "wer", 0.2, 20)
    assert best_evaluation(record_of([row(1, train__loss=1.0)])) is None
