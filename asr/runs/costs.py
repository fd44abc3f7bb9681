"""Costs of one learner from its rows: figures that rows give per step, as means or sums over the steps they stand for."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from asr.runs.metrics import Row


def number(values: Mapping[str, Any], key: str) -> float:
    """The value of ``key`` in a row; NaN if it is missing or no number."""
    value = values.get(key)
    return float(value) if isinstance(value, int | float) else math.nan


def training_rows(rows: Sequence[Row]) -> list[tuple[float, Row]]:
    """The rows of training of one learner, each with the number of steps that its costs are means over."""
    before, found = 0.0, []
    for row in rows:
        if "time/step" in row and (step := number(row, "step")) > before:
            found.append((step - before, row))
            before = step
    return found


def summed(rows: Sequence[Row], key: str) -> tuple[float, float]:
    """The sum over all steps of a figure that rows give per step, and the number of steps that have it."""
    found = [(steps, value) for steps, row in training_rows(rows) if math.isfinite(value := number(row, key))]
    return sum(steps * value for steps, value in found), sum(steps for steps, _ in found)


def per_step(rows: Sequence[Row], key: str) -> float:
    """The mean over all steps of such a figure; NaN where no row has it."""
    total, steps = summed(rows, key)
    return total / steps if steps else math.nan


def total(rows: Sequence[Row], key: str) -> float:
    """The sum over all rows of a metric whose rows hold the amount since the row before; NaN where none has it."""
    found = [value for row in rows if math.isfinite(value := number(row, key))]
    return sum(found) if found else math.nan
