"""The parts of a chart: lines, scales and ticks, its title and unit, a legend, and what it shows in words."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from asr.reporting import text
from asr.reporting.page import Html, join, tag
from asr.reporting.run import RunRecord
from asr.reporting.series import Series, spread, thin
from asr.reporting.style import SERIES
from asr.reporting.svg import inline_svg, name_part, series_colour, series_dash

THIN_POINTS = 120  # points of a thin line
MOST_LINES = 8  # learners drawn one by one; more become a band from the lowest to the highest


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart; ``colour`` counts series, ``run`` the runs of the page. One without a title is not read out."""

    curve: Series
    colour: int
    run: int
    title: str = ""
    dash: str = "solid"
    width: float = 1.6
    opacity: float = 1.0
    marker: str = ""


def draw_learners(axes: Axes, learners: Mapping[str, Series]) -> None:
    """Draw a few learners as thin lines, given by name, many as a band; without a name none is read out."""
    if len(learners) > MOST_LINES:
        lowest, highest = spread(list(learners.values()))
        low, high = thin(lowest, THIN_POINTS), thin(highest, THIN_POINTS)
        band = axes.fill_between(low.x, low.y, high.y, color=series_colour(0), alpha=0.2, linewidth=0)
        name_part(band, "area", "from the lowest to the highest learner", run=0)
        return
    for name, curve in learners.items():
        draw(axes, Line(thin(curve, THIN_POINTS), 0, 0, name, width=0.8, opacity=0.45))


def draw(axes: Axes, line: Line) -> None:
    """Add one line; a single point is drawn as such."""
    marker = line.marker or ("o" if np.isfinite(line.curve.y).sum() == 1 else "")
    (drawn,) = axes.plot(
        line.curve.x, line.curve.y, color=series_colour(line.colour), linestyle=line.dash, linewidth=line.width,
        alpha=line.opacity, marker=marker, markersize=3, markeredgewidth=0,
    )  # fmt: skip
    name_part(drawn, "line" if line.title else "back", line.title, line.run)


def finish(axes: Axes, form: Callable[[float], str], curves: Sequence[Series], from_zero: bool = False) -> None:
    """Set scales and ticks: logarithmic where positive values span more than a factor of 20, unless ``from_zero``."""
    y = np.concatenate([curve.y[np.isfinite(curve.y)] for curve in curves])
    if not from_zero and y.min() > 0 and y.max() > 20 * y.min():
        axes.set_yscale("log")
        decades = math.log10(y.max() / y.min())
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if decades < 3 else (1.0,), numticks=8))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if from_zero or 0 <= y.min() < 0.5 * y.max():
            axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(text.compact))
    axes.margins(x=0.02)


def chart(
    axes: Axes,
    name: str,
    title: str,
    note: str,
    description: str,
    entries: Html,
    *,
    curves: bool,
    form: str | None = None,
) -> Html:
    """A titled plot with its unit and legend.

    ``curves``: it shows curves over samples, which the reader may see over something else; ``form``: "bytes" where the
    values are bytes.
    """
    anchor = "".join(letter if letter.isalnum() else f"-{ord(letter):x}-" for letter in name)
    caption = join((note, ", " if note else "", tag("span", "over samples", class_="over"))) if curves else note
    plot = inline_svg(axes, anchor, description)
    over = "samples" if curves else None
    return tag(
        "figure", tag("h3", title), tag("figcaption", caption), entries, plot, data_over=over, data_form=form
    )  # fmt: skip


def describe(title: str, shown: Sequence[tuple[str, Series]]) -> str:
    """Describe a chart in words: first, last and extreme values."""
    parts = []
    for label, curve in shown:
        y = curve.y[np.isfinite(curve.y)]
        ends = f"from {text.figure(y[0])} to {text.figure(y[-1])}"
        parts.append(f"{label}: {ends}, lowest {text.figure(y.min())}, highest {text.figure(y.max())}")
    return f"{title}. {'; '.join(parts)}"


def legend_of(records: Sequence[RunRecord]) -> Html:
    """A legend of the runs' names; empty for a single run."""
    if len(records) == 1:
        return Html("")
    entries = [(record.name, index, series_dash(index)) for index, record in enumerate(records)]
    return legend(entries, of_runs=True)


def legend(entries: Sequence[tuple[str, int, str]], of_runs: bool = False) -> Html:
    """A legend: labels with a stroke of the series' colour and dash, or with a patch if ``bar``."""
    items = [
        tag("li", stroke(colour, dash), label, data_run=place if of_runs else None)
        for place, (label, colour, dash) in enumerate(entries)
    ]
    return tag("ul", join(items), class_="legend")


def stroke(colour: int, dash: str) -> Html:
    """A short piece of a series' line."""
    dashes = {"dashed": "5 2.5", "dotted": "1.5 2.5", "dashdot": "6 2 1.5 2"}
    path = tag(
        "path", d="M0 5H24", stroke=f"var(--series-{colour % SERIES})", stroke_width="9" if dash == "bar" else "2.5",
        stroke_dasharray=dashes.get(dash),
    )  # fmt: skip
    return tag("svg", path, viewBox="0 0 24 10", aria_hidden="true")
