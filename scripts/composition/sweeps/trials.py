"""The trials of a sweep on disk: what each tries, written before it starts, and what came of it, read from its run.

exp/<sweep>/definition.json      what is tried
exp/<sweep>/trials/<number>.json values and run folder of a trial, and the exit code where it has failed
exp/<sweep>/<trial>/             its run
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from asr.foreign.files import ForeignError
from asr.foreign.json_text import read_json
from asr.runs.files import create_atomically, write_atomically
from asr.runs.run_folder import RunFolder
from distributed.errors import UsageError
from scripts.composition.sweeps.space import Values

LONGEST_NAME = 100  # characters of a run folder's name
OF_A_BATCH = "train/"  # metrics of which a row has the value of one batch


@dataclass(frozen=True, slots=True)
class Trial:
    """One combination of values, and its run."""

    number: int
    values: Values
    run: Path
    exit_code: int | None = None  # of its last start, if that failed

    @property
    def summary(self) -> dict[str, Any] | None:
        """What the run has written at its end; None if it has not come there."""
        path = RunFolder(self.run).summary
        return read_json(path) if path.is_file() else None

    @property
    def state(self) -> str:
        """finished, failed, begun or waiting."""
        if RunFolder(self.run).summary.is_file():
            return "finished"
        if self.exit_code is not None:
            return "failed"
        return "begun" if RunFolder(self.run).config.is_file() else "waiting"

    def figure(self, key: str | None) -> tuple[str, float] | None:
        """Name and value of what the sweep makes small; None if the run has not ended.

        A metric of evaluations is that of the last row; one of single batches is the end of its smoothed curve.

        Raises:
            UsageError: the run has no such metric.
        """
        summary = self.summary
        if summary is None:
            return None
        if key is None:
            best = summary.get("best") or {}
            found = {name: value for name, value in best.items() if name != "checkpoint" and _is_number(value)}
            if not found:
                raise UsageError(
                    f"{self.run}: no evaluation has chosen a best checkpoint; name a metric, such as figure=train/loss"
                )
            return next(iter(found.items()))
        value = (summary.get("final") or {}).get(key)
        if not _is_number(value):
            known = ", ".join(name for name, each in (summary.get("final") or {}).items() if _is_number(each))
            raise UsageError(f"figure={key}: the last row of {self.run} has no such number; it has {known}")
        if key.startswith(OF_A_BATCH) and math.isfinite(value):
            from asr.reporting.figures import smoothed_end  # seconds to import
            from asr.reporting.run import read_run

            value = smoothed_end(read_run(self.run), key)
        return key, float(value)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class TrialFolder:
    """The records of a sweep's trials."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _record(self, number: int) -> Path:
        return self.folder / "trials" / f"{number}.json"

    def read(self, number: int) -> Trial | None:
        """The trial of a number; None if it was never begun.

        Raises:
            ForeignError: its record is damaged.
        """
        path = self._record(number)
        if not path.is_file():
            return None
        record = read_json(path)
        values, name, code = record.get("values"), record.get("run"), record.get("exit_code")
        plain = isinstance(values, dict) and all(isinstance(each, (str, int, float)) for each in values.values())
        if (
            not plain
            or not isinstance(name, str)
            or Path(name).name != name
            or not (code is None or isinstance(code, int))
        ):
            raise ForeignError(path, "not the record of a trial; remove it, and the trial is made anew")
        return Trial(number, values or {}, self.folder / name, code)

    def write(self, trial: Trial) -> None:
        """Write the record of a trial."""
        path = self._record(trial.number)
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"values": dict(trial.values), "run": trial.run.name, "exit_code": trial.exit_code}
        write_atomically(path, json.dumps(record, indent=2) + "\n")

    def all(self) -> list[Trial]:
        """The trials that were begun, by number."""
        numbers = sorted(int(path.stem) for path in (self.folder / "trials").glob("*.json") if path.stem.isdecimal())
        found = (self.read(number) for number in numbers)
        return [trial for trial in found if trial is not None]

    def seen(self, key: str | None, before: int | None = None) -> list[tuple[Values, float]]:
        """Values and figure of the trials that have finished, those of a number below ``before``."""
        trials = [trial for trial in self.all() if before is None or trial.number < before]
        figures = [(trial.values, trial.figure(key)) for trial in trials]
        return [(values, figure[1]) for values, figure in figures if figure is not None and math.isfinite(figure[1])]


def run_of(number: int, values: Values) -> str:
    """Name of a trial's run folder: 003_lr-0.001_backend-dpsgd."""
    parts = [f"{re.split(r'[./@]', key)[-1]}-{value}" for key, value in values.items()]
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", "_".join([f"{number:03d}", *parts]))[:LONGEST_NAME].strip("_")


def check_definition(folder: Path, definition: dict[str, Any]) -> None:
    """Refuse the folder of another sweep, or write down what this one tries; of several processes the first one does.

    Raises:
        UsageError: names what differs.
    """
    path = folder / "definition.json"
    if not path.is_file():
        occupied = any(not each.name.startswith(".") for each in folder.glob("*"))
        if occupied and not path.is_file():  # of a sweep the definition comes first, perhaps from another process
            raise UsageError(f"{folder} holds something else than a sweep; choose another name=")
        folder.mkdir(parents=True, exist_ok=True)
        create_atomically(path, json.dumps(definition, indent=2) + "\n")
    earlier = read_json(path)
    differing = sorted(key for key in earlier | definition if earlier.get(key) != definition.get(key))
    if differing:
        raise UsageError(
            f"{folder} holds another sweep: {', '.join(differing)} differ; repeat its command to go on, or choose "
            "another name="
        )


def definition_of(
    entry_point: str, overrides: Sequence[str], sampler: str, seed: int, figure: str | None
) -> dict[str, Any]:
    """What makes two sweeps the same one: all that chooses values, except the number of trials, which may grow."""
    drawn = {} if sampler == "grid" else {"seed": seed}
    judged = {"figure": figure} if sampler == "tpe" else {}
    return {"entry_point": entry_point, "overrides": list(overrides), "sampler": sampler} | drawn | judged
