"""The tables of a run for sinks."""

import math
from pathlib import Path

import pytest

from asr.runs.costs import per_step, total, training_rows
from asr.runs.metrics import MetricsWriter
from asr.runs.tables import Table, best_evaluation_figures, flat, markdown, tables_of

PLACE = {"global_step": 0, "samples": 0, "epoch": 0.0, "wall_seconds": 0.0}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rows = {
        0: [
            {"step": 10, "data/units": 20.0, "time/step": 1.0, "comm/bytes_sent": 5.0},
            {"step": 10, "data/units": 20.0, "eval/dev/wer": 0.4, "eval/dev/loss": 3.0},
            {"step": 40, "data/units": 80.0, "time/step": 2.0, "comm/bytes_sent": 7.0},
            {"step": 40, "eval/dev/wer": 0.5, "eval/dev/loss": math.nan},
        ],
        1: [{"step": 5, "data/units": 10.0, "time/step": 4.0}],
    }
    for learner, lines in rows.items():
        writer = MetricsWriter(tmp_path, learner)
        for line in lines:
            writer.write(PLACE | line)
        writer.close()
    return tmp_path


def test_a_line_for_each_evaluation_and_for_each_learner(run: Path) -> None:
    evaluations, learners = tables_of(run)
    assert [dict(zip(evaluations.header, row, strict=True))["eval/dev/wer"] for row in evaluations.rows] == [0.4, 0.5]
    assert evaluations.rows[1][list(evaluations.header).index("eval/dev/loss")] is None, "NaN is unknown"
    first, second = [dict(zip(learners.header, row, strict=True)) for row in learners.rows]
    assert (first["step"], first["data/units"], first["comm/bytes_sent"]) == (40, 80, 12)
    assert first["time/step"] == (10 * 1 + 30 * 2) / 40
    assert (second["learner"], second["time/step"], second["comm/bytes_sent"]) == (1, 4.0, None)


def test_the_best_figures_are_the_lowest(run: Path) -> None:
    assert best_evaluation_figures(run) == {"eval/dev/wer": 0.4, "eval/dev/loss": 3.0}
    assert best_evaluation_figures(run / "none") == {}
    assert tables_of(run / "none") == []


def test_markdown_keeps_its_columns() -> None:
    assert (
        markdown(Table("t", ["a|b", "c"], [[1.5, None], ["x\ny", 2]]))
        == "| a\\|b | c |\n| --- | --- |\n| 1.5 |  |\n| x y | 2 |"
    )


def test_settings_are_flat() -> None:
    settings = {"a": {"b": 1, "c": {"d": None}}, "e": [1, 2], "f": True}
    assert flat(settings) == {"a.b": 1, "a.c.d": "None", "e": "[1, 2]", "f": True}


def test_costs_go_with_steps() -> None:
    rows = [
        {"step": 2, "time/step": 1.0},
        {"step": 2, "eval/dev/wer": 1.0},
        {"step": 8, "time/step": 3.0, "x": math.nan},
    ]
    assert [steps for steps, _ in training_rows(rows)] == [2, 6]
    assert per_step(rows, "time/step") == 2.5
    assert math.isnan(per_step(rows, "x"))
    assert math.isnan(total(rows, "x"))
    assert total(rows, "time/step") == 4.0
