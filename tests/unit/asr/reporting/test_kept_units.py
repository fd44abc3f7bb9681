"""The picture of what structured pruning keeps: layers in order, the newest evaluation, nothing without it."""

from typing import Any

from asr.reporting.kept_units import PREFIX, fractions_kept, kept_units
from asr.reporting.report import report
from asr.reporting.run import RunRecord

ROWS: list[dict[str, Any]] = [
    {"samples": 1, f"{PREFIX}encoder.blocks.0.attention": 1.0, f"{PREFIX}encoder.width": 1.0},
    {
        "samples": 2, f"{PREFIX}encoder.blocks.0.attention": 0.25, f"{PREFIX}encoder.blocks.10.attention": 0.75,
        f"{PREFIX}encoder.blocks.2.convolution.channels": 0.5, f"{PREFIX}encoder.width": 0.625,
    },
]  # fmt: skip


def record_of(rows: list[dict[str, Any]]) -> RunRecord:
    return RunRecord("run", {0: rows}, [], "", {}, {})


def test_fractions_are_those_of_the_newest_evaluation_by_part_and_layer() -> None:
    layers, others = fractions_kept(record_of(ROWS))
    assert layers == {"attention": {0: 0.25, 10: 0.75}, "convolution.channels": {2: 0.5}}
    assert others == {"encoder.width": 0.625}


def test_a_page_shows_them_once_and_only_of_runs_that_were_pruned() -> None:
    page = report(record_of(ROWS))
    assert page.count(">Units kept<") == 2, "in the contents, and above the picture"
    assert "attention: 50 % on average; convolution.channels: 50 % on average" in page
    assert "62.5" in page
    assert PREFIX not in page, "no chart of each"
    assert kept_units([record_of([{"samples": 1, "train/loss": 1.0}])]) == ""
