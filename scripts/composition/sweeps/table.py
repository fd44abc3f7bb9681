"""The results of a sweep: sweep.csv and sweep.json, the best trial first, and the page that compares its runs."""

import csv
import fcntl
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.runs.files import write_atomically
from distributed.errors import UsageError
from scripts.composition.sweeps.trials import Trial, TrialFolder

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Results:
    """What the trials of a sweep have shown so far."""

    rows: Sequence[Entry]
    figure: str | None  # column of the figure; None if no trial has one
    remarks: Sequence[str]  # why finished trials have none


def results_of(trials: Sequence[Trial], key: str | None) -> Results:
    """The table of the trials; one that has finished without the figure gets a row without it, and a remark."""
    figures, remarks = {}, []
    for trial in trials:
        try:
            figure = trial.figure(key)
        except UsageError as error:
            remarks.append(str(error))
            continue
        if figure is not None:
            figures[trial.number] = figure
    name = next((name for name, _ in figures.values()), None)
    return Results(table(trials, figures, name), name, remarks)


def table(trials: Sequence[Trial], figures: Mapping[int, tuple[str, float]], name: str | None) -> list[Entry]:
    """A row for each trial: by the figure ``name`` those that have it, the others after them."""
    rows = []
    for trial in trials:
        summary, figure = trial.summary or {}, figures.get(trial.number)
        rows.append(
            {"trial": trial.number}
            | dict(trial.values)
            | ({} if figure is None else {figure[0]: figure[1]})
            | {
                "checkpoint": (summary.get("best") or {}).get("checkpoint"),
                "steps": summary.get("steps"),
                "wall_seconds": summary.get("wall_seconds"),
                "state": trial.state,
                "run": trial.run.name,
            }
        )

    def place(row: Entry) -> tuple[float, int]:
        value = row.get(name, math.inf) if name is not None else math.inf
        return (value if math.isfinite(value) else math.inf), row["trial"]

    columns = list(dict.fromkeys(column for row in sorted(rows, key=len, reverse=True) for column in row))
    return [{column: row.get(column) for column in columns} for row in sorted(rows, key=place)]


def write_results(folder: Path, key: str | None) -> Results:
    """Write table and page from all trials so far; of several processes one does so at a time, and the last has all."""
    with (folder / ".sweep.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        trials = TrialFolder(folder).all()
        results = results_of(trials, key)
        rows = results.rows
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]) if rows else ["trial"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(folder / "sweep.csv", text.getvalue())
        write_atomically(folder / "sweep.json", json.dumps({"figure": key, "rows": list(rows)}, indent=2) + "\n")
        finished = [str(trial.run) for trial in trials if trial.state == "finished"]
        if finished:
            from scripts.composition.pages import run  # seconds to import

            run([*finished, f"out={folder / 'comparison.html'}", "lattices=0"])
    return results


def best_line(results: Results, keys: Sequence[str]) -> str | None:
    """The best trial in a line; None if none has a finite figure."""
    rows, name = results.rows, results.figure
    if name is None or (value := rows[0][name]) is None or not math.isfinite(value):
        return None
    best = rows[0]
    values = " ".join(f"{each}={best[each]}" for each in keys)
    return f"best of {len(rows)}: {name} {value:.4g} with {values} ({best['run']})"
