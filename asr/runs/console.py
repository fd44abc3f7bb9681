"""What the first learner shows while it trains: a progress bar on a terminal, plain lines anywhere else.

    step 50/1500  ETA 6:02  epoch 0.40  loss 12.31  lr 1.2e-03  grad 3.1  learner 0: 84.2 audio-s/s  data 2 %
    evaluation at step 50/1500  ETA 6:02  dev: loss 10.20  WER 45.30 %

Lines are better than a bar in a file or under SLURM. Both read the same rows as every other sink; a figure that a
row lacks is left out. How far the run is comes first, so that a narrow terminal shows it too. Rates are those of the first
learner alone: what others do is in their rows, and on the report page.
"""

import sys
from collections import deque
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from asr.foreign.terminal import shown
from asr.runs.loggers import Logger
from asr.runs.metrics import SHOWN, Row

# The parts of a step's line: the key of a metric, and its format.
STEP_PARTS: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("train/loss", "loss {:.2f}".format),
    ("train/lr", "lr {:.1e}".format),
    ("train/grad_norm", "grad {:.1f}".format),
    ("throughput/audio_seconds_per_second", "learner 0: {:.1f} audio-s/s".format),
    ("throughput/tokens_per_second", "learner 0: {:.0f} tokens/s".format),
)


PACE_ROWS = 64  # number of newest rows from whose pace the remaining time is estimated


class Way:
    """Progress of a run and its remaining time, at the pace of the newest rows; evaluations count too."""

    def __init__(self, total_samples: int, total_steps: int) -> None:
        self.total_samples = total_samples
        self.total_steps = total_steps
        self._marks: deque[tuple[float, float]] = deque(maxlen=PACE_ROWS)  # (samples, wall seconds) of the newest rows

    def after(self, row: Row) -> str:
        """Take a row into account and return the progress after it: ``50/1500  ETA 6:02``."""
        samples, seconds = row["samples"], row["wall_seconds"]
        self._marks.append((samples, seconds))
        earlier_samples, earlier_seconds = self._marks[0]
        if samples <= earlier_samples:  # the first row: the whole run until now
            earlier_samples, earlier_seconds = 0, 0.0
        left = max(self.total_samples - samples, 0)
        eta = clock((seconds - earlier_seconds) / (samples - earlier_samples) * left) if samples else "?"
        return f"{row['global_step']}/{self.total_steps}  ETA {eta}"


def clock(seconds: float) -> str:
    """Minutes and seconds, after the hours if there are any: 0:09, 12:30, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def is_evaluation(row: Row) -> bool:
    """Whether a row holds an evaluation; otherwise it holds a training step."""
    return any(key.startswith("eval/") for key in row)


def step_line(row: Row, way: str) -> str:
    """One training step as a line; ``way``: the progress that ``Way.after`` returned for the row."""
    return f"step {way}  {step_figures(row)}"


def step_figures(row: Row) -> str:
    """The metrics of a training step, as the rest of its line."""
    parts = [f"epoch {row['epoch']:.2f}"]
    parts += [text(row[key]) for key, text in STEP_PARTS if key in row]
    if "time/data_wait" in row and row.get("time/step"):
        parts.append(f"data {100 * row['time/data_wait'] / row['time/step']:.0f} %")
    return "  ".join(parts)


def evaluation_line(row: Row, way: str) -> str:
    """One evaluation as a line, set by set; ``way``: the progress that ``Way.after`` returned for the row."""
    sets = dict.fromkeys(key.split("/")[1] for key in row if key.startswith("eval/"))
    parts = [f"evaluation at step {way}"]
    for name in sets:
        loss = row.get(f"eval/{name}/loss")
        figures = [f"loss {loss:.2f}"] if loss is not None else []
        figures += [text(row[key]) for figure, text in SHOWN.items() if (key := f"eval/{name}/{figure}") in row]
        parts.append(f"{shown(name)}: " + "  ".join(figures))
    return "  ".join(parts)


def console_logger(total_samples: int, total_steps: int, file: TextIO | None = None) -> Logger:
    """A progress bar where ``file`` (standard output by default) is a terminal, plain lines otherwise."""
    console, way = Console(file=file or sys.stdout), Way(total_samples, total_steps)
    return ProgressLogger(way, console) if console.is_terminal else PlainLogger(way, file or sys.stdout)


class PlainLogger:
    """Prints one line per row, flushed at once."""

    def __init__(self, way: Way, file: TextIO) -> None:
        self.way = way
        self.file = file

    def log(self, row: Row) -> None:
        line = evaluation_line if is_evaluation(row) else step_line
        print(line(row, self.way.after(row)), file=self.file, flush=True)

    def close(self) -> None:
        self.file.flush()


class ProgressLogger:
    """A bar with steps, remaining time and the latest metrics; evaluations are printed above it."""

    def __init__(self, way: Way, console: Console) -> None:
        self.way = way
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            # What a narrow terminal has no room for is cut off here, and nowhere else.
            TextColumn("{task.fields[figures]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=console,
            expand=True,
        )
        self._task: TaskID | None = None
        self._figure = ""  # the metric of the newest evaluation

    def log(self, row: Row) -> None:
        way = self.way.after(row)
        if self._task is None:
            self._task = self._progress.add_task("", total=self.way.total_samples, figures="")
        self._progress.update(self._task, completed=row["samples"], description=f"step {way}")
        self._progress.start()  # nothing, from the second row on
        if is_evaluation(row):
            figures = ((key.rpartition("/")[2], row[key]) for key in row if key.startswith("eval/"))
            self._figure = next((SHOWN[name](value) for name, value in figures if name in SHOWN), self._figure)
            self._progress.console.print(evaluation_line(row, way), markup=False, highlight=False)
            return
        self._progress.update(self._task, figures="  ".join(filter(None, [step_figures(row), self._figure])))

    def close(self) -> None:
        if self._task is not None:
            self._progress.stop()
            self._task = None
