"""What a report says of learners: shares, staleness, and charts only where there are figures."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from asr.reporting.learners import learner_charts, learners_table, shown_here, staleness_of
from asr.reporting.report import report
from asr.reporting.run import RunRecord, read_run

MakeRun = Callable[..., Path]


def record_of(rows: dict[int, list[dict[str, Any]]], name: str = "run") -> RunRecord:
    return RunRecord(name, rows, [], "", {}, {})


def cells(table: str) -> list[list[str]]:
    """The text of a table, row by row."""
    return [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in re.findall(r"<tr>.*?</tr>", table)]


ASYNCHRONOUS = {
    0: [
        {
            "samples": 10, "step": 3, "data/units": 3.0, "time/step": 1.0, "time/comm_exposed": 0.25, "comm/bytes_sent": 1e6,
            "comm/rounds_per_step": 1.0, "comm/staleness/0": 3.0, "comm/staleness/2": 1.0,
        },
        {"samples": 20, "step": 6, "data/units": 6.0, "comm/bytes_sent": 5e5, "comm/staleness/10": 2.0},
    ],
    1: [{"samples": 20, "step": 2, "data/units": 2.0, "comm/staleness/0": 2.0}],
}  # fmt: skip


def test_a_line_per_learner_says_what_it_did() -> None:
    header, first, second = cells(learners_table(record_of(ASYNCHRONOUS)))
    assert dict(zip(header, first, strict=True)) == {
        "learner": "0", "steps": "6", "units": "6", "share": "75.0\u202f%", "waiting for others, per step": "0.25 s",
        "of a step": "25.0\u202f%", "rounds per step": "1", "sent": "1.5\u202fMB", "mean staleness": "3.667",
    }  # fmt: skip
    assert second[:4] == ["1", "2", "2", "25.0\u202f%"]
    assert set(second[4:-1]) == {"–"}
    assert second[-1] == "0"


def test_columns_without_figures_and_tables_of_one_learner_are_left_out() -> None:
    rows = {rank: [{"samples": 1, "step": 4, "data/units": math.nan}] for rank in range(2)}
    assert cells(learners_table(record_of(rows)))[0] == ["learner", "steps"]
    assert learners_table(record_of({0: ASYNCHRONOUS[0]})) == ""


def test_staleness_is_counted_over_rows_and_learners() -> None:
    assert staleness_of(record_of(ASYNCHRONOUS)) == Counter({0: 5, 10: 2, 2: 1})
    strange: dict[str, Any] = {"samples": 1, "comm/staleness/x": 2.0, "comm/staleness/1": None, "comm/staleness_max": 9}
    assert not staleness_of(record_of({0: [strange]}))


def test_the_histogram_says_its_bars_in_words() -> None:
    units, shown = learner_charts([record_of(ASYNCHRONOUS)])
    assert "Units processed" in units, "as learners have different shares"
    assert "Staleness. run, 8 exchanges: 0: 62.5 %, 2: 12.5 %, 10: 25 %" in shown
    both = learner_charts([record_of(ASYNCHRONOUS), record_of({0: [{"samples": 1}]}, "<b>synchronous</b>")])
    assert "&lt;b&gt;synchronous&lt;/b&gt;, 0 exchanges: none" in both[-1]
    assert "<b>" not in both[-1]
    assert learner_charts([record_of({0: [{"samples": 1, "train/lr": 0.1}]})]) == []


def test_diagnostics_have_charts_and_are_no_other_figures(make_run: MakeRun) -> None:
    folder = make_run()
    path = folder / "metrics" / "0.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    names = ("alpha_e", "delta", "delta_s", "delta_2", "sigma_w2")
    for place, row in enumerate(rows):
        row |= {f"diagnostics/{name}": 1e-3 / (1 + place + number) for number, name in enumerate(names)}
        row |= {"comm/staleness/0": 3.0, "data/units": float(4 * place)}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = read_run(folder)
    page = report([record, replace(record, name="other")])
    for title in ("Effective learning rate", "Strength of the noise in a step", "Variance of the weights", "Staleness"):
        assert f"<h3>{title}" in page
    assert not re.findall(r"<h3>[^<]*diagnostics/", page)
    assert "effective solid, as scheduled dashed, <span" in page
    assert all(shown_here(f"diagnostics/{name}") for name in names)
    assert not shown_here("pruning/sparsity")
