"""The results of a sweep: sweep.csv and sweep.json, the best trial first, and the page that compares its runs."""

import csv
import fcntl
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.runs.files import write_atomically
from scripts.composition.sweep_trials import Trial, TrialFolder

Entry = dict[str, Any]


def table(trials: Sequence[Trial], key: str | None) -> list[Entry]:
    """A row for each trial: those that have finished by their figure, the others after them."""
    rows = []
    for trial in trials:
        summary, figure = trial.summary or {}, trial.figure(key)
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
    name = next((figure[0] for trial in trials if (figure := trial.figure(key)) is not None), None)

    def place(row: Entry) -> tuple[float, int]:
        value = row.get(name, math.inf) if name is not None else math.inf
        return (value if math.isfinite(value) else math.inf), row["trial"]

    columns = list(dict.fromkeys(column for row in sorted(rows, key=len, reverse=True) for column in row))
    return [{column: row.get(column) for column in columns} for row in sorted(rows, key=place)]


def write_results(folder: Path, key: str | None) -> list[Entry]:
    """Write table and page from all trials so far; of several processes one does so at a time, and the last has all."""
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        trials = TrialFolder(folder).all()
        rows = table(trials, key)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]) if rows else ["trial"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(folder / "sweep.csv", text.getvalue())
        write_atomically(folder / "sweep.json", json.dumps({"figure": key, "rows": rows}, indent=2) + "\n")
        finished = [str(trial.run) for trial in trials if trial.state == "finished"]
        if finished:
            from scripts.composition.pages import run  # seconds to import

            run([*finished, f"out={folder / 'comparison.html'}", "lattices=0"])
    return rows


def best_line(rows: Sequence[Entry], keys: Sequence[str], key: str | None) -> str | None:
    """The best trial in a line; None if none has finished."""
    if not rows or rows[0]["state"] != "finished":
        return None
    best = rows[0]
    name = key or next(column for column in best if column not in ("trial", *keys))
    values = " ".join(f"{each}={best[each]}" for each in keys)
    return f"best of {len(rows)}: {name} {best[name]:.4g} with {values} ({best['run']})"
