"""The curves of one run, or of several over one another.

For one run, every learner is a thin line and their mean or sum a bold one. For several runs there is one line each.
Every chart carries its unit under its title and a description in words, for readers who cannot see it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

from asr.reporting import text
from asr.reporting.charts import (
    THIN_POINTS,
    Line,
    chart,
    describe,
    draw,
    draw_learners,
    finish,
    legend,
    legend_of,
)
from asr.reporting.page import Html, tag
from asr.reporting.run import RunRecord
from asr.reporting.series import Series, mean, running_total, series, smoothed, thin, total
from asr.reporting.svg import DASHES, FONT_SIZE, MUTED, name_part, new_axes, series_colour, series_dash

WIDTH_INCHES, HEIGHT_INCHES = 4.7, 2.7
POINTS = 240  # points of a bold line: about two pixels each
MOST_BARS = 16  # learners with a bar each; more become one bar, their mean
MARKED_POINTS = 40  # a line of fewer evaluations also shows a dot at each


@dataclass(frozen=True, slots=True)
class Curve:
    """The content of one chart."""

    key: str
    title: str
    note: str  # the unit, and how to read it
    reduce: Callable[[Sequence[Series]], Series] = mean
    smoothed: bool = False
    prepare: Callable[[Series], Series] = lambda curve: curve  # applied to each learner's own curve
    form: Callable[[float], str] = text.compact
    over: str = "samples"
    from_zero: bool = False  # a linear scale that begins at zero, however far values spread


CURVES = (
    Curve("train/loss", "Training loss", "nats per utterance", smoothed=True),
    Curve("train/lr", "Learning rate", "", from_zero=True),
    Curve("train/grad_norm", "Gradient norm", "before clipping", smoothed=True),
)
LOSS_OVER_TIME = Curve(
    "train/loss", "Training loss over time", "nats per utterance", smoothed=True, over="wall_seconds"
)
THROUGHPUT = Curve(
    "throughput/audio_seconds_per_second",
    "Throughput",
    "seconds of speech per second, all learners together",
    reduce=total,
    smoothed=True,
    from_zero=True,
)
TRAFFIC = Curve(
    "comm/bytes_sent",
    "Traffic",
    "bytes sent so far, all learners together",
    total,
    prepare=running_total,
    form=text.compact_bytes,
    from_zero=True,
)
TIME_PARTS = (
    ("time/compute", "compute"),
    ("time/data_wait", "waiting for data"),
    ("time/comm_exposed", "exposed communication"),
)


def training_charts(records: Sequence[RunRecord]) -> list[Html]:
    """Charts of loss, evaluations, learning rate and gradient norm; charts without data are left out."""
    charts = [curve_chart(records, curve) for curve in CURVES]
    over_time = curve_chart(records, LOSS_OVER_TIME) if len(records) > 1 else None
    evaluations = [
        evaluation_chart(records, "wer", "Word error rate", "percent, evaluated while training", 100.0),
        evaluation_chart(records, "frame_error", "Frame error rate", "percent, evaluated while training", 100.0),
        evaluation_chart(records, "perplexity", "Perplexity", "per token, evaluated while training", 1.0),
        evaluation_chart(records, "loss", "Evaluation loss", "nats per utterance, evaluated while training", 1.0),
    ]
    # What a reader without scripts cannot choose: scripts show every curve over time.
    unscripted = None if over_time is None else tag("noscript", over_time)
    return [chart for chart in (charts[0], unscripted, *evaluations, *charts[1:]) if chart is not None]


def cost_charts(records: Sequence[RunRecord]) -> list[Html]:
    """Charts of throughput, of the parts of a step's time, and of traffic."""
    sent = any(record.most(TRAFFIC.key) > 0 for record in records)
    charts = (
        curve_chart(records, THROUGHPUT),
        time_chart(records),
        curve_chart(records, TRAFFIC) if sent else None,
    )
    return [chart for chart in charts if chart is not None]


def other_figures(
    records: Sequence[RunRecord], elsewhere: Callable[[str], bool]
) -> tuple[list[Html], list[tuple[str, float]]]:
    """Metrics that no other chart shows, such as those of hooks; keys for which ``elsewhere`` is true are left out.

    Returns charts of the metrics that change, and each metric that is constant in all runs with its value.
    """
    shown = {curve.key for curve in (*CURVES, THROUGHPUT, TRAFFIC)} | {key for key, _ in TIME_PARTS}
    keys = sorted({key for record in records for key in record.metric_keys()} - shown)
    charts, constants = [], []
    for key in keys:
        if elsewhere(key) or (
            key.startswith("eval/") and key.endswith(("/wer", "/frame_error", "/perplexity", "/loss"))
        ):
            continue
        low = min((record.least(key) for record in records if math.isfinite(record.least(key))), default=math.nan)
        high = max((record.most(key) for record in records if math.isfinite(record.most(key))), default=math.nan)
        if low == high:
            constants.append((key, low))
        elif math.isfinite(low):
            chart = curve_chart(records, Curve(key, key, "mean over learners"))
            charts += [] if chart is None else [chart]
    return charts, constants


def any_finite(records: Sequence[RunRecord], keys: Iterable[str]) -> bool:
    """Whether any run has a finite value of any of the metrics."""
    return any(math.isfinite(record.most(key)) for record in records for key in keys if key in record.metric_keys())


def curve_chart(records: Sequence[RunRecord], what: Curve) -> Html | None:
    """A chart of one training metric over the samples; None if no run has it."""
    if not any_finite(records, [what.key]):
        return None
    axes = new_axes(WIDTH_INCHES, HEIGHT_INCHES)
    shown: list[tuple[str, Series]] = []
    for index, record in enumerate(records):
        curves = {f"learner {name}": series(rows, what.key, what.over) for name, rows in sorted(record.rows.items())}
        learners = {name: what.prepare(curve) for name, curve in curves.items() if not curve.empty}
        together = what.reduce(list(learners.values()))
        if together.empty:
            continue
        if len(records) == 1:
            several = len(record.rows) > 1 and what.reduce is mean
            draw_learners(axes, learners if several else {"": together})
        elif what.smoothed:
            draw(axes, Line(thin(together, THIN_POINTS), index, index, width=0.6, opacity=0.28))
        bold = smoothed(together) if what.smoothed else together
        named = record.name if len(records) > 1 else "smoothed" if what.smoothed else "together"
        draw(axes, Line(thin(bold, POINTS), index, index, named, series_dash(index)))
        shown.append((record.name, together))
    if not shown:
        return None
    finish(axes, what.form, [curve for _, curve in shown], what.from_zero)
    note = what.note
    if what.smoothed:
        mean_of = " mean of the learners" if len(records) == 1 and what.reduce is mean else ""
        note += f"; bold: smoothed{mean_of}"
    if what.over != "samples":
        note += ", over seconds of training"
    return chart(
        axes, f"{what.key}-{what.over}", what.title, note, describe(what.title, shown), legend_of(records),
        curves=what.over == "samples", form="bytes" if what.form is text.compact_bytes else None,
    )  # fmt: skip


def evaluation_chart(records: Sequence[RunRecord], kind: str, title: str, note: str, scale: float) -> Html | None:
    """A chart of one metric of the evaluations during training, one line per run and set; None without evaluations."""
    sets = sorted({name for record in records for name in record.evaluated_sets()})
    keys = {f"eval/{name}/{kind}": name for name in sets}
    return keys_chart(records, keys, f"eval-{kind}", title, f"{note} on {', '.join(sets)}", scale)


def keys_chart(
    records: Sequence[RunRecord],
    keys: Mapping[str, str],
    name: str,
    title: str,
    note: str,
    scale: float = 1.0,
    form: Callable[[float], str] = text.compact,
) -> Html | None:
    """A chart of several metrics, given by key and label: the learners' mean, one line per run and metric.

    With several runs, colours distinguish runs and dashes metrics; with one run, colours distinguish metrics. None
    without data.
    """
    if not any_finite(records, keys):
        return None
    axes, shown = new_axes(WIDTH_INCHES, HEIGHT_INCHES), list[tuple[str, Series]]()
    for index, record in enumerate(records):
        for position, (key, label) in enumerate(keys.items()):
            curve = mean([series(rows, key) for rows in record.rows.values()])
            if curve.empty:
                continue
            colour = position if len(records) == 1 else index
            dash = series_dash(colour) if len(records) == 1 else DASHES[position % len(DASHES)]
            curve = Series(curve.x, curve.y * scale)
            marker = "o" if len(curve.x) <= MARKED_POINTS else ""
            named = label if len(records) == 1 else f"{record.name}, {label}" if len(keys) > 1 else record.name
            draw(axes, Line(thin(curve, POINTS), colour, index, named, dash, marker=marker))
            shown.append((label if len(records) == 1 else f"{record.name}, {label}", curve))
    if not shown:
        return None
    finish(axes, form, [curve for _, curve in shown])
    entries = [(label, position, series_dash(position)) for position, label in enumerate(keys.values())]
    if len(records) > 1 and len(keys) > 1:
        how = ", ".join(f"{label} {dash}" for label, dash in zip(keys.values(), DASHES, strict=False))
        note += f"{'; ' if note else ''}{how}"
    return chart(
        axes, name, title, note, describe(title, shown), legend_of(records) or legend(entries),
        curves=True, form="bytes" if form is text.compact_bytes else None,
    )  # fmt: skip


def time_chart(records: Sequence[RunRecord]) -> Html | None:
    """The parts of a step's time in seconds: a bar per learner of one run, or per run of several."""
    bars = _time_bars(records)
    if not bars:
        return None
    axes = new_axes(WIDTH_INCHES, max(1.1, 0.55 + 0.26 * len(bars)))
    axes.grid(visible=False)
    left = np.zeros(len(bars))
    for colour in range(len(TIME_PARTS)):
        widths = np.array([seconds[colour] for _, seconds in bars])
        drawn = axes.barh(range(len(bars)), widths, 0.62, left=left, color=series_colour(colour))
        for (label, _), width, bar in zip(bars, widths, drawn, strict=True):
            name_part(bar, "bar", f"{label}: {TIME_PARTS[colour][1]} {text.figure(width)} s")
        left += widths
    for row, end in enumerate(left):
        axes.annotate(
            f"{text.figure(end)} s",
            (end, row),
            (5, 0),
            textcoords="offset points",
            va="center",
            color=MUTED,
            fontsize=FONT_SIZE,
        )
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.set(xlim=(0, left.max() * 1.16 or 1), ylim=(len(bars) - 0.4, -0.6))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    said = "; ".join(
        f"{label}: " + ", ".join(f"{part} {text.figure(seconds[i])} s" for i, (_, part) in enumerate(TIME_PARTS))
        for label, seconds in bars
    )
    parts = [(part, colour, "bar") for colour, (_, part) in enumerate(TIME_PARTS)]
    note = "seconds per step, mean over the run"
    if len(records) > 1:
        note += "; runs by their number in the comparison"
    return chart(axes, "time", "Time of a step", note, f"Time of a step. {said}", legend(parts), curves=False)


def _time_bars(records: Sequence[RunRecord]) -> list[tuple[str, list[float]]]:
    if len(records) > 1:
        rows = [(f"run {index}", record.all_rows()) for index, record in enumerate(records, start=1)]
    elif len(records[0].rows) <= MOST_BARS:
        rows = [(f"learner {learner}", list(records[0].rows[learner])) for learner in sorted(records[0].rows)]
    else:
        rows = [(f"mean of {len(records[0].rows)}", records[0].all_rows())]
    bars = []
    for label, having in rows:
        parts = [series(having, key) for key, _ in TIME_PARTS]
        if not all(part.empty for part in parts):
            bars.append((label, [0.0 if part.empty else float(np.nanmean(part.y)) for part in parts]))
    return bars
