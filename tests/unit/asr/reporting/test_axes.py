"""What curves can be drawn over: the same numbers as in the rows."""

import re
from typing import Any

import numpy as np

from asr.reporting.axes import POINTS, scales
from asr.reporting.run import RunRecord


def record_of(*learners: list[dict[str, Any]]) -> RunRecord:
    return RunRecord("run", dict(enumerate(learners)), [], "", {}, {})


def table(markup: str, name: str) -> list[float]:
    found = re.search(rf'data-{name}="([^"]*)"', markup)
    assert found is not None
    return [float(value) for value in found[1].split()]


def test_bytes_are_those_of_all_learners_and_only_grow() -> None:
    learners = [
        [{"samples": 10, "global_step": 1, "wall_seconds": 2.0, "comm/bytes_sent": 100.0},
         {"samples": 30, "global_step": 3, "wall_seconds": 6.0, "comm/bytes_sent": 200.0}],
        [{"samples": 30, "global_step": 3, "wall_seconds": 8.0, "comm/bytes_sent": 50.0}],
    ]  # fmt: skip
    markup, found = scales([record_of(*learners)])
    assert found == {"samples", "steps", "seconds", "bytes"}
    assert table(markup, "samples") == [10, 30]
    assert table(markup, "steps") == [1, 3]
    assert table(markup, "seconds") == [2, 7]
    assert table(markup, "bytes") == [100, 350]


def test_long_runs_have_short_tables_with_the_same_ends() -> None:
    rows = [{"samples": 8 * step, "global_step": step, "wall_seconds": 0.1 * step**1.1} for step in range(1, 5001)]
    markup, found = scales([record_of(rows)])
    assert found == {"samples", "steps", "seconds"}
    samples, seconds = table(markup, "samples"), table(markup, "seconds")
    assert len(samples) == POINTS
    assert (samples[0], samples[-1]) == (8, 40000)
    assert np.diff(seconds).min() >= 0
    np.testing.assert_allclose(seconds, 0.1 * (np.array(samples) / 8) ** 1.1, rtol=1e-6)


def test_runs_without_rows_have_empty_tables() -> None:
    markup, found = scales([record_of([])])
    assert found == {"samples"}
    assert 'data-samples=""' in markup
