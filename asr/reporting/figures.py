"""The figures by which runs are compared, each as one number of a run; NaN where its files do not say.

Costs are of the whole run and of all learners, so that one of many slow learners and one of few fast ones compare.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from asr.reporting import text
from asr.reporting.run import Result, RunRecord
from asr.reporting.series import mean, series, smoothed
from asr.runs.costs import number, summed, total, training_rows

SELECTING = (
    "wer",
    "frame_error",
    "perplexity",
)  # measures that choose the best checkpoint, by their metric's last word


@dataclass(frozen=True, slots=True)
class Best:
    """The best evaluation during training."""

    set_name: str
    measure: str
    value: float
    global_step: float


@dataclass(frozen=True, slots=True)
class Figure:
    """A column of the comparison."""

    title: str
    value: Callable[[RunRecord], float]
    form: Callable[[float], str]
    difference: Callable[[float, float], str] = text.ratio


def best_evaluation(record: RunRecord) -> Best | None:
    """The evaluation with the fewest errors, on the first set by name (dev before test); None where there was none."""
    keys = [f"eval/{name}/{measure}" for measure in SELECTING for name in record.evaluated_sets()]
    for key in keys:
        found = [(value, row) for row in record.all_rows() if math.isfinite(value := number(row, key))]
        if found:
            value, row = min(found, key=lambda pair: (pair[0], number(pair[1], "global_step")))
            _, name, measure = key.split("/")
            return Best(name, measure, value, number(row, "global_step"))
    return None


def smoothed_end(record: RunRecord, key: str) -> float:
    """The end of the learners' mean curve as charts show it, smoothed: the newest row alone is one noisy batch."""
    curve = mean([series(rows, key) for rows in record.rows.values()])
    return math.nan if curve.empty else float(smoothed(curve).y[-1])


def per_step(record: RunRecord, key: str) -> float:
    """The mean over all steps of all learners of a figure that rows give per step."""
    sums = [summed(rows, key) for rows in record.rows.values()]
    steps = sum(count for _, count in sums)
    return sum(total for total, _ in sums) / steps if steps else math.nan


def payload_per_step(record: RunRecord) -> float:
    """Bytes on the wire that a learner sends in the exchange of a step, the mean over steps and learners.

    Starts, evaluations and checkpoints are left out. A single learner sends none.
    """
    sent = total_of(record, "comm/bytes_sent") - np.nan_to_num(total_of(record, "comm/control_bytes_sent"))
    steps = sum(count for rows in record.rows.values() for count, _ in training_rows(rows))
    return float(sent) / steps if steps else math.nan


def samples_per_second(record: RunRecord) -> float:
    """Utterances of all learners per second of training, evaluations and checkpoints left out.

    The seconds are those of the learner that trained longest: the others waited for it, or took what it left.
    """
    seconds = max((summed(rows, "time/step")[0] for rows in record.rows.values()), default=0.0)
    return record.most("samples") / seconds if seconds > 0 else math.nan


def exposed_part(record: RunRecord) -> float:
    """The fraction of a step in which a learner waits for communication."""
    step = per_step(record, "time/step")
    return per_step(record, "time/comm_exposed") / step if step > 0 else math.nan


def result_of(record: RunRecord, title: str) -> Result | None:
    """The result of a set under a search, by the title that tables give it."""
    return next((result for result in record.results if result.title == title), None)


def real_time_factor(record: RunRecord) -> float:
    """Seconds of decoding per second of audio, of the first result that has it."""
    return next((each.real_time_factor for each in record.results if math.isfinite(each.real_time_factor)), math.nan)


def parameters(record: RunRecord) -> float:
    """Number of values in the model's file."""
    return math.nan if record.size is None else record.size.parameters


def file_bytes(record: RunRecord) -> float:
    """Size of the model's file."""
    return math.nan if record.size is None else record.size.file_bytes


COSTS = (
    Figure("loss, smoothed end", lambda run: smoothed_end(run, "train/loss"), text.figure),
    Figure("values in the model", parameters, text.compact),
    Figure("size of the model", file_bytes, text.compact_bytes),
    Figure("samples", lambda run: run.most("samples"), text.count),
    Figure("wall time", lambda run: run.most("wall_seconds"), text.duration),
    Figure("samples per second, all learners", samples_per_second, text.figure),
    Figure("payload per step and learner", payload_per_step, text.compact_bytes),
    Figure("exposed communication per step", lambda run: per_step(run, "time/comm_exposed"), text.duration),
    Figure(
        "of a step", exposed_part, lambda part: text.percent(part, 1), lambda part, other: text.points(part - other)
    ),
    Figure("real-time factor of decoding", real_time_factor, text.figure),
)


def of_learner(record: RunRecord, learner: int) -> RunRecord:
    """The run as if it had this learner alone."""
    return replace(record, rows={learner: record.rows[learner]})


def total_of(record: RunRecord, key: str) -> float:
    """The sum over all rows of a metric whose rows hold the amount since the row before; NaN where none has it."""
    return total(record.all_rows(), key)
