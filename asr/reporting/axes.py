"""What a curve can be drawn over: for each run, the steps, seconds and bytes that belong to a number of samples.

All curves are functions of the samples of all learners, which do not depend on how many there are and how they agree. The
page's script looks the other quantities up here, so that a curve is on the page once.
"""

from collections.abc import Sequence

import numpy as np

from asr.reporting.page import Html, join, tag
from asr.reporting.run import RunRecord
from asr.reporting.series import Series, mean, running_total, series, total

POINTS = 300  # of each table; between them the script interpolates
QUANTITIES = {  # by the script's names: how a choice of them is called
    "samples": "samples",
    "steps": "global steps",
    "seconds": "time of training",
    "bytes": "bytes sent",
}


def scale(record: RunRecord) -> dict[str, Series]:
    """Global steps, seconds of training and bytes sent by all learners over samples; empty where rows lack them."""
    learners = [list(rows) for rows in record.rows.values()]
    sent = total([running_total(curve) for rows in learners if not (curve := series(rows, "comm/bytes_sent")).empty])
    if not sent.empty and not sent.y[-1] > 0:
        sent = Series(np.empty(0), np.empty(0))
    return {
        "steps": mean([series(rows, "global_step") for rows in learners]),
        "seconds": mean([series(rows, "wall_seconds") for rows in learners]),
        "bytes": sent,
    }


def scales(records: Sequence[RunRecord]) -> tuple[Html, set[str]]:
    """The tables of all runs for the script, and the quantities that any run has."""
    tables, found = [], {"samples"}
    for index, record in enumerate(records):
        curves = {name: curve for name, curve in scale(record).items() if not curve.empty}
        found |= curves.keys()
        grid = np.unique(np.concatenate([curve.x for curve in curves.values()] or [np.empty(0)]))
        if len(grid) > POINTS:
            grid = grid[np.linspace(0, len(grid) - 1, POINTS).astype(int)]
        # What is counted up never falls, but a mean over learners that come and go may.
        columns = {name: np.maximum.accumulate(np.interp(grid, curve.x, curve.y)) for name, curve in curves.items()}
        data = {f"data_{name}": numbers(values) for name, values in {"samples": grid, **columns}.items()}
        tables.append(tag("div", class_="scale", hidden="", data_run=index, **data))
    return join(tables), found


def numbers(values: Sequence[float] | np.ndarray) -> str:
    """Numbers for an attribute, apart by blanks."""
    return " ".join(f"{value:.7g}" for value in values)
