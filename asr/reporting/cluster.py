"""A page about simulated backends on a cluster: their table, where a step's time goes, speed-up over learners."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

from asr.reporting import text
from asr.reporting.charts import Line, chart, describe, draw, finish, legend
from asr.reporting.page import Html, Section, grid, join, render, table, tag
from asr.reporting.series import Series
from asr.reporting.svg import FONT_SIZE, MUTED, name_part, new_axes, series_colour, series_dash

WIDTH_INCHES, HEIGHT_INCHES = 5.6, 3.4
PARTS = ("computation", "waiting for others and for messages", "the scheme's own work and slow learners")
HEADER = (
    "backend", "step", "efficiency", "epoch", "sent per step", "waiting", "staleness, mean and largest",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Backend:
    """One simulated backend. Seconds and bytes are per step, and of a learner."""

    word: str
    step_seconds: float
    compute_seconds: float  # of a unit, nobody slow
    waited_seconds: float
    epoch_seconds: float
    bytes_sent: float
    staleness_mean: float  # in own updates
    staleness_max: int

    @property
    def cells(self) -> list[str]:
        """Its row of the table."""
        stale = f"{self.staleness_mean:.2f}, {self.staleness_max}" if self.staleness_max else text.MISSING
        return [
            self.word,
            f"{1000 * self.step_seconds:.4g} ms",
            text.percent(self.compute_seconds / self.step_seconds, 0),
            text.duration(self.epoch_seconds),
            text.compact_bytes(self.bytes_sent),
            f"{1000 * self.waited_seconds:.3g} ms",
            stale,
        ]

    @property
    def parts(self) -> list[float]:
        """Where the time of a step goes, by ``PARTS``."""
        compute = min(self.compute_seconds, self.step_seconds)
        waited = min(self.waited_seconds, self.step_seconds - compute)
        return [compute, waited, self.step_seconds - compute - waited]


def cluster_page(backends: Sequence[Backend], curves: Mapping[str, Mapping[int, float]], cluster: str) -> str:
    """The page; ``curves``: speed-up by number of learners, for each word; ``cluster``: what was simulated, in words."""
    rows = table(HEADER, [each.cells for each in backends], "Simulated backends", numbers=range(1, len(HEADER)))
    charts = [step_chart(backends), *(chart for chart in [speed_up_chart(curves)] if chart is not None)]
    note = tag("p", "Simulated, not measured. Efficiency: computation of a unit over the time of a step.")
    header = join((tag("h1", "Simulated backends"), tag("p", cluster)))
    return render(
        "Simulated backends - Murmuration",
        [Section("Backends", join((note, rows))), Section("Charts", grid(charts))],
        header,
    )


def step_chart(backends: Sequence[Backend]) -> Html:
    """A bar for each backend, of the parts of its step."""
    axes = new_axes(WIDTH_INCHES, max(1.2, 0.6 + 0.27 * len(backends)))
    axes.grid(visible=False)
    left = np.zeros(len(backends))
    for colour, part in enumerate(PARTS):
        widths = np.array([each.parts[colour] for each in backends])
        drawn = axes.barh(range(len(backends)), widths, 0.62, left=left, color=series_colour(colour))
        for each, width, bar in zip(backends, widths, drawn, strict=True):
            name_part(bar, "bar", f"{each.word}: {part} {text.figure(width)} s")
        left += widths
    for row, end in enumerate(left):
        said, offset = f"{text.figure(end)} s", (5, 0)
        axes.annotate(
            said, (end, row), offset, textcoords="offset points", va="center", color=MUTED, fontsize=FONT_SIZE
        )
    axes.set_yticks(range(len(backends)), [each.word for each in backends])
    axes.set(xlim=(0, left.max() * 1.16), ylim=(len(backends) - 0.4, -0.6))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    read = "; ".join(f"{each.word} {text.figure(each.step_seconds)} s" for each in backends)
    parts = [(part, colour, "bar") for colour, part in enumerate(PARTS)]
    return chart(axes, "step", "Time of a step", "seconds", f"Time of a step. {read}", legend(parts), curves=False)


def speed_up_chart(curves: Mapping[str, Mapping[int, float]]) -> Html | None:
    """Speed-up over the number of learners, a line for each backend; None without points."""
    lines = {
        word: Series(np.array(list(points), dtype=np.float64), np.array(list(points.values())))
        for word, points in curves.items()
        if points
    }
    if not lines:
        return None
    axes = new_axes(WIDTH_INCHES, HEIGHT_INCHES)
    for index, (word, curve) in enumerate(lines.items()):
        draw(axes, Line(curve, index, index, word, series_dash(index), marker="o"))
    finish(axes, text.compact, list(lines.values()), from_zero=True)
    axes.set_xticks(sorted({learners for points in curves.values() for learners in points}))
    entries = legend([(word, index, series_dash(index)) for index, word in enumerate(lines)])
    note = "times one learner's computation alone, over the number of learners; units stay as large"
    return chart(axes, "speed-up", "Speed-up", note, describe("Speed-up", list(lines.items())), entries, curves=False)
