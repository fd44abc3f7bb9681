"""What the first learner shows while it trains: a progress bar on a terminal, plain lines anywhere else.

    step 50  epoch 0.40  loss 12.31  lr 1.2e-03  grad 3.1  learner 0: 84.2 audio-s/s  data 2 %
    evaluation at step 50  dev: loss 10.20  WER 45.30 %

Lines are better than a bar in a file or under SLURM. Both read the same rows as every other sink; a figure that a
row lacks is left out. Rates are those of the first learner alone: what others do is in their rows, and on the report page.
"""

import sys
from collections.abc import Callable
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from asr.training.loggers import Logger
from asr.training.measures import SHOWN
from asr.training.metrics import Row

# What a step's line is made of: the figure and how it reads.
STEP_PARTS: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("train/loss", "loss {:.2f}".format),
    ("train/lr", "lr {:.1e}".format),
    ("train/grad_norm", "grad {:.1f}".format),
    ("throughput/audio_seconds_per_second", "learner 0: {:.1f} audio-s/s".format),
    ("throughput/tokens_per_second", "learner 0: {:.0f} tokens/s".format),
)


def is_evaluation(row: Row) -> bool:
    """Whether a row is of an evaluation rather than of a training step."""
    return any(key.startswith("eval/") for key in row)


def step_line(row: Row) -> str:
    """One training step in one line."""
    parts = [f"step {row['global_step']}", f"epoch {row['epoch']:.2f}"]
    parts += [text(row[key]) for key, text in STEP_PARTS if key in row]
    if "time/data_wait" in row and row.get("time/step"):
        parts.append(f"data {100 * row['time/data_wait'] / row['time/step']:.0f} %")
    return "  ".join(parts)


def evaluation_line(row: Row) -> str:
    """One evaluation in one line, set by set."""
    sets = dict.fromkeys(key.split("/")[1] for key in row if key.startswith("eval/"))
    parts = [f"evaluation at step {row['global_step']}"]
    for name in sets:
        loss = row.get(f"eval/{name}/loss")
        shown = [f"loss {loss:.2f}"] if loss is not None else []
        shown += [text(row[key]) for figure, text in SHOWN.items() if (key := f"eval/{name}/{figure}") in row]
        parts.append(f"{name}: " + "  ".join(shown))
    return "  ".join(parts)


def console_logger(total_samples: int, file: TextIO | None = None) -> Logger:
    """A bar where ``file`` (standard output) is a terminal, plain lines otherwise."""
    console = Console(file=file or sys.stdout)
    return ProgressLogger(total_samples, console) if console.is_terminal else PlainLogger(file or sys.stdout)


class PlainLogger:
    """One line per row, flushed at once."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def log(self, row: Row) -> None:
        print(evaluation_line(row) if is_evaluation(row) else step_line(row), file=self.file, flush=True)

    def close(self) -> None:
        self.file.flush()


class ProgressLogger:
    """A bar with the last figures and the remaining time; evaluations are printed above it."""

    def __init__(self, total_samples: int, console: Console) -> None:
        self.total_samples = total_samples
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=600,  # seconds; rows come rarely, rich's own 30 would often see none
        )
        self._task: TaskID | None = None
        self._figure = ""  # the newest of the evaluations

    def log(self, row: Row) -> None:
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task("", total=self.total_samples, completed=row["samples"])
        if is_evaluation(row):
            figures = ((key.rpartition("/")[2], row[key]) for key in row if key.startswith("eval/"))
            self._figure = next((SHOWN[name](value) for name, value in figures if name in SHOWN), self._figure)
            self._progress.console.print(evaluation_line(row), markup=False, highlight=False)
            return
        text: dict[str, Any] = {"description": "  ".join(filter(None, [step_line(row), self._figure]))}
        self._progress.update(self._task, completed=row["samples"], **text)

    def close(self) -> None:
        if self._task is not None:
            self._progress.stop()
            self._task = None
