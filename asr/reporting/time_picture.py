"""Learners over time: what each of them did with the seconds of a run, from its rows.

A row gives means over the steps since the row before: seconds of computation, of waiting for data and of waiting for
communication. With the time of the row that is how the seconds between two rows were spent; what is left of them went
into evaluations, checkpoints and the like. ``gantt.py`` shows single steps.

P parts   E edges of bins in time
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

from asr.reporting import text
from asr.reporting.charts import chart, legend
from asr.reporting.gantt import MOST_LANES, gantt
from asr.reporting.page import Html, details, join, scrolling, tag
from asr.reporting.run import RunRecord
from asr.reporting.series import Values
from asr.reporting.svg import MUTED, name_part, new_axes, series_colour
from asr.runs.costs import number

PARTS = (  # of a row, in the order of the picture; the last one is what the others leave
    ("time/compute", "compute", 0),
    ("time/data_wait", "waiting for data", 1),
    ("time/comm_exposed", "waiting for communication", 2),
    ("", "evaluations, checkpoints and the rest", 5),
)
UNFOLDED = 4  # runs whose pictures are unfolded, of several
CELLS = 180  # of a picture: lanes times bins
MOST_BINS, LEAST_BINS = 60, 16
WIDTH_INCHES, LANE_INCHES = 9.4, 0.3


@dataclass(frozen=True, slots=True)
class Lane:
    """One learner: the fraction of each bin that each part took; bins without rows are 0 in all parts."""

    learner: int
    shares_PB: Values


def time_section(records: Sequence[RunRecord]) -> Html:
    """Both pictures of every run; those of several runs can be folded away, and are after the first few."""
    parts = []
    for index, record in enumerate(records):
        pictures = [picture for picture in (gantt(record, index), time_picture(record, index)) if picture]
        if not pictures:
            continue
        body = tag("div", *pictures, class_="wides")
        several = len(records) > 1
        parts.append(
            details(f"{record.name}: learners over time", body, is_open=index < UNFOLDED, run=index)
            if several
            else body
        )
    return join(parts)


def time_picture(record: RunRecord, index: int) -> Html:
    """The lanes of a run's learners over its seconds; empty where rows hold no times."""
    edges_E, lanes = lanes_of(record)
    if not lanes:
        return Html("")
    axes = new_axes(WIDTH_INCHES, 0.55 + LANE_INCHES * len(lanes))
    axes.grid(visible=False)
    x = np.repeat(edges_E, 2)[1:-1]
    for place, lane in enumerate(lanes):
        bottom_B = np.full(len(edges_E) - 1, place + 0.86)
        for (_, _, colour), share_B in zip(PARTS, lane.shares_PB, strict=True):
            top_B = bottom_B - 0.8 * share_B
            axes.fill_between(x, np.repeat(bottom_B, 2), np.repeat(top_B, 2), color=series_colour(colour), linewidth=0)
            bottom_B = top_B
        for start, end, share_P in zip(edges_E, edges_E[1:], lane.shares_PB.T, strict=False):
            if share_P.any():
                (cell,) = axes.bar([start], [0.8], end - start, place + 0.06, align="edge", alpha=0, color=MUTED)
                span = f"{text.duration(start)} to {text.duration(end)}"
                name_part(cell, "bar", f"learner {lane.learner}, {span}: {shares_in_words(share_P)}")
    axes.set_yticks([place + 0.46 for place in range(len(lanes))], [f"learner {lane.learner}" for lane in lanes])
    axes.set(xlim=(0, edges_E[-1]), ylim=(len(lanes), 0))
    axes.xaxis.set_major_locator(MaxNLocator(8))
    entries = legend([(name, colour, "bar") for _, name, colour in PARTS])
    figure = chart(
        axes, f"lanes-{index}", "Learners over time", "what the seconds of training went into, over seconds of training",
        f"Learners over time. {'; '.join(map(in_words, lanes))}", entries, curves=False,
    )  # fmt: skip
    return scrolling(figure, f"Learners of {record.name} over time")


def lanes_of(record: RunRecord) -> tuple[Values, list[Lane]]:
    """Edges of the bins in seconds (E,), and the lanes of the first learners; no lanes where rows hold no times."""
    learners = [learner for learner in sorted(record.rows) if any("time/step" in row for row in record.rows[learner])]
    learners = learners[:MOST_LANES]
    end = record.most("wall_seconds")
    if not learners or not end > 0:
        return np.empty(0), []
    bins = min(max(CELLS // len(learners), LEAST_BINS), MOST_BINS)
    edges_E = np.linspace(0.0, end, bins + 1)
    return edges_E, [Lane(learner, shares(record, learner, edges_E)) for learner in learners]


def shares(record: RunRecord, learner: int, edges_E: Values) -> Values:
    """(P, E - 1): the fraction of each bin that each part took, from the rows of one learner."""
    ends, spent = [0.0], [[0.0] * len(PARTS)]
    step = 0.0
    for row in record.rows[learner]:
        seconds = number(row, "wall_seconds") - ends[-1]
        if not seconds > 0:
            continue
        steps = max(number(row, "step") - step, 0.0) if "time/step" in row else 0.0
        step += steps
        parts = [value if math.isfinite(value := steps * number(row, key)) else 0.0 for key, _, _ in PARTS[:-1]]
        scale = min(1.0, seconds / sum(parts)) if any(parts) else 0.0  # clocks of rows and steps differ a little
        spent.append([*(scale * part for part in parts), seconds - scale * sum(parts)])
        ends.append(ends[-1] + seconds)
    sums_TP = np.cumsum(spent, axis=0)
    at_edges_PE = np.stack([np.interp(edges_E, ends, sums) for sums in sums_TP.T])
    return np.diff(at_edges_PE, axis=1) / np.diff(edges_E)


def in_words(lane: Lane) -> str:
    """One lane: the shares of the whole run."""
    present = lane.shares_PB.sum(0) > 0
    return (
        f"learner {lane.learner}: {shares_in_words(lane.shares_PB[:, present].mean(1)) if present.any() else 'no rows'}"
    )


def shares_in_words(share_P: Values) -> str:
    """Shares in percent."""
    total = share_P.sum()
    return ", ".join(
        f"{name} {text.percent(share / total, 0)}" for (_, name, _), share in zip(PARTS, share_P, strict=True)
    )
