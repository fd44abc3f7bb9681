"""The metrics of a run on disk: metrics/<learner>.jsonl, one JSON object per logged step and per evaluation.

Every row has learner, step, global_step, samples, epoch and wall_seconds beside its figures. Rows are flushed one by
one, so that a killed run loses at most the line it was writing; a resume cuts off what came after the checkpoint.
Floats are written with ``repr``, hence exactly. JSON has no NaN and no infinity: they are written as the strings
"NaN", "Infinity" and "-Infinity" (JavaScript's names; ``read_rows`` turns them back into floats).
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from asr.runs.appended_rows import keep, read_appended
from asr.runs.files import write_atomically
from asr.runs.run_folder import RunFolder

Row = dict[str, Any]

ROW_KEYS = ("step", "global_step", "samples", "epoch", "wall_seconds")
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
SHOWN: dict[str, Callable[[float], str]] = {  # format of each metric on the console and in reports
    "wer": lambda rate: f"WER {100 * rate:.2f} %",
    "frame_error": lambda rate: f"frame error {100 * rate:.2f} %",
    "perplexity": "perplexity {:.3f}".format,
    "bits_per_token": "{:.3f} bits per token".format,
}


class MetricsWriter:
    """Appends the rows of one learner to <folder>/metrics/<learner>.jsonl."""

    def __init__(self, folder: Path, learner: int) -> None:
        self.path = RunFolder(folder).metrics_of(learner)
        self.learner = learner
        self._file: TextIO | None = None

    def write(self, row: Mapping[str, Any]) -> Row:
        """Append a row and return it as written, ``learner`` included; raises ValueError if a row key is missing."""
        missing = [key for key in ROW_KEYS if key not in row]
        if missing:
            raise ValueError(f"a metrics row must have {', '.join(ROW_KEYS)}; missing: {', '.join(missing)}")
        full = {"learner": self.learner, **row}
        line = to_json(full)
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            cut_rows(self.path, math.inf)  # a torn last line must not run into the next row
            self._file = self.path.open("a", encoding="utf-8")
        self._file.write(line + "\n")
        self._file.flush()
        return full

    def cut(self, after_samples: float) -> list[Row]:
        """Drop this learner's rows after ``after_samples`` global samples, to be written anew; returns those kept."""
        self.close()
        cut_rows(self.path, after_samples)
        return read_rows(self.path) if self.path.exists() else []

    def close(self) -> None:
        """Close the file; a later row opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def cut_rows(path: Path, after_samples: float) -> None:
    """Drop rows whose ``samples`` exceed ``after_samples``, and a last line that a kill has cut short; atomic.

    A file that needs no cut is not written; a missing file counts as empty. Damaged lines are set aside.
    """
    if not path.exists():
        return
    lines = read_appended(path, _defect)
    keep(lines, [line for line, row in lines.rows if row["samples"] <= after_samples])


def cut_former_learners(folder: Path, after_samples: float, learners: int) -> None:
    """Cut the files of learners that the run no longer has; to be called by one learner when a run goes on."""
    for path in metrics_files(folder):
        if int(path.stem) >= learners:
            cut_rows(path, after_samples)


def merge(folder: Path) -> Path:
    """Write <folder>/metrics.jsonl: the rows of all learners in the order of (samples, learner). Safe while running."""
    rows = [(row["samples"], learner_of(path), line) for path in metrics_files(folder) for line, row in _lines(path)]
    rows.sort(key=lambda item: item[:2])  # stable: a learner's rows at the same sample count stay in order
    path = RunFolder(folder).merged_metrics
    write_atomically(path, "".join(f"{line}\n" for _, _, line in rows))
    return path


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics file; a last line that was cut short is skipped, other damaged lines are also logged."""
    return [{key: _from_json(value) for key, value in row.items()} for _, row in _lines(path)]


def to_json(row: Mapping[str, Any]) -> str:
    """One line of valid JSON; raises ValueError for a value that is neither number, string, bool nor None."""
    return json.dumps({key: _plain(key, value) for key, value in row.items()}, allow_nan=False)


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"metrics row: {key} must be a number, a string or None, got {type(value).__name__}")


def _from_json(value: Any) -> Any:
    return NON_FINITE.get(value, value) if isinstance(value, str) else value


def _lines(path: Path) -> Sequence[tuple[str, Row]]:
    """The complete lines of a file that hold rows, each with its parsed row; other lines are logged."""
    lines = read_appended(path, _defect)
    lines.log_damaged("passed over")
    return lines.rows


def _defect(row: Row) -> str | None:
    """Why an object is no row of metrics, or None. Rows are ordered by samples, and a resume reads their seconds."""
    for key in ("samples", "wall_seconds"):
        value = row.get(key, None if key == "samples" else 0.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return f"has no number as its {key}"
    odd = next((key for key, value in row.items() if isinstance(value, (list, dict))), None)
    return None if odd is None else f"has a list or an object as its {odd}"


def metrics_files(folder: Path) -> list[Path]:
    """The metrics files of a run's learners, by rank."""
    return sorted((path for path in RunFolder(folder).metrics.glob("*.jsonl") if path.stem.isdecimal()), key=learner_of)


def learner_of(path: Path) -> int:
    """Rank of the learner whose rows a file holds."""
    return int(path.stem)
