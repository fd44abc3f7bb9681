"""The tables of a run for sinks that show tables: its evaluations, and what each learner did and what that cost.

They are made of metrics/<learner>.jsonl when a sink is closed, so that they hold the rows of all learners, of which a sink
sees those of the first alone.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from asr.runs.costs import number, per_step, total
from asr.runs.metrics import ROW_KEYS, Row, learner_of, metrics_files, read_rows

PER_STEP = ("time/step", "time/compute", "time/data_wait", "time/comm_exposed", "comm/rounds_per_step")
SUMS = ("comm/bytes_sent", "comm/bytes_received")
Cell = float | str | None  # None: unknown


class Table(NamedTuple):
    """A table with its name and the names of its columns."""

    name: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def tables_of(folder: Path) -> list[Table]:
    """The tables of a run that have rows."""
    rows = {learner_of(path): read_rows(path) for path in metrics_files(folder)}
    return [table for table in (evaluations(rows), learners(rows)) if table.rows]


def evaluations(rows: Mapping[int, Sequence[Row]]) -> Table:
    """A line for each evaluation of the first learner, with all its figures."""
    found = [row for row in rows.get(0, ()) if any(key.startswith("eval/") for key in row)]
    keys = sorted({key for row in found for key in row if "/" in key})
    header = [key for key in ROW_KEYS if key != "step"] + keys
    return Table("evaluations", header, [[_cell(row.get(key)) for key in header] for row in found])


def learners(rows: Mapping[int, Sequence[Row]]) -> Table:
    """A line for each learner: its steps and units, its mean costs per step, and what it sent and received."""
    lines = []
    for learner in sorted(rows):
        own = rows[learner]
        counts = [
            max((number(row, key) for row in own if key in row), default=math.nan) for key in ("step", "data/units")
        ]
        costs = [per_step(own, key) for key in PER_STEP] + [total(own, key) for key in SUMS]
        lines.append([learner, *map(_cell, counts + costs)])
    return Table("learners", ["learner", "step", "data/units", *PER_STEP, *SUMS], lines)


def best_evaluation_figures(folder: Path) -> dict[str, float]:
    """The lowest value of each figure of the evaluations, by its metric's name; lower is better in all of them."""
    found: dict[str, float] = {}
    for path in metrics_files(folder)[:1]:
        for row in read_rows(path):
            for key in row:
                if key.startswith("eval/") and math.isfinite(value := number(row, key)):
                    found[key] = min(value, found.get(key, math.inf))
    return found


def markdown(table: Table) -> str:
    """The table in Markdown, as TensorBoard shows texts."""
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join(f"| {' | '.join(_text(cell) for cell in line)} |" for line in lines)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str | float | bool]:
    """The leaves of nested settings by dotted key; what is neither a number, a text nor a truth value is a text."""
    leaves: dict[str, str | float | bool] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value if isinstance(value, str | int | float | bool) else str(value)
    return leaves


def _cell(value: Any) -> Cell:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    text = cell if isinstance(cell, str) else f"{cell:.6g}"
    return " ".join(text.replace("|", "\\|").split())
