"""The newest steps of all learners, one beside the other: what was behind computation, and what made it wait.

A lane per learner: above, its steps, in which it computes unless it waits for data or for others; below, the exchanges that
were under way. An exchange below computation cost nothing; one below a wait did. From timeline/<learner>.json.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from asr.reporting import text
from asr.reporting.charts import chart, legend
from asr.reporting.page import Html, join, scrolling, table
from asr.reporting.run import RunRecord
from asr.reporting.svg import PAPER, name_part, new_axes, series_colour
from asr.runs.timeline import Kind, Spell

WIDTH_INCHES, LANE_INCHES = 9.4, 0.44
SHOWN_STEPS = 3.2  # of the slowest learner
MOST_LANES = 16
MOST_CUTS = 24  # of a quarter each: a thousandth of the time is left
MOST_MARKS = 1600  # of a picture
KINDS: dict[Kind, tuple[str, int, float, float]] = {  # its name, colour, top within the lane, height
    "step": ("compute", 0, 0.08, 0.46),
    "data": ("waiting for data", 1, 0.08, 0.46),
    "waiting": ("waiting for other learners", 2, 0.08, 0.46),
    "exchange": ("exchange under way", 3, 0.60, 0.24),
}
HEADER = (
    "learner",
    "steps",
    "compute",
    "waiting for data",
    "waiting for others",
    "exchange under way",
    "of it behind computation",
)


@dataclass(frozen=True, slots=True)
class Shares:
    """Fractions of a learner's shown seconds."""

    steps: int
    compute: float
    data: float
    waiting: float
    exchange: float
    hidden: float  # of the seconds of exchange: those in which the learner did not wait for others


def gantt(record: RunRecord, index: int) -> Html:
    """The picture of a run with a line of figures for each learner; empty where no timelines were written."""
    start, lanes = shown(record.timelines)
    if not lanes:
        return Html("")
    end = max(spell.end for spells in lanes.values() for spell in spells)
    axes = new_axes(WIDTH_INCHES, 0.55 + LANE_INCHES * len(lanes))
    axes.grid(visible=False)
    for place, (learner, spells) in enumerate(lanes.items()):
        draw_lane(axes, place, learner, spells, start)
    axes.set_yticks([place + 0.45 for place in range(len(lanes))], [f"learner {learner}" for learner in lanes])
    axes.set(xlim=(0, end - start), ylim=(len(lanes), 0))
    axes.xaxis.set_major_locator(MaxNLocator(8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g} s"))
    shares = {learner: shares_of(spells) for learner, spells in lanes.items()}
    said = "; ".join(f"learner {learner}: {in_words(each)}" for learner, each in shares.items())
    entries = legend([(name, colour, "bar") for name, colour, _, _ in KINDS.values()])
    figure = chart(
        axes, f"gantt-{index}", "Newest steps of the learners", "an exchange below computation is hidden behind it; seconds",
        f"Newest steps of the learners. {said}", entries, curves=False,
    )  # fmt: skip
    rows = [[str(learner), str(each.steps), *cells(each)] for learner, each in shares.items()]
    listed = table(HEADER, rows, f"Newest steps of {record.name}", numbers=range(1, len(HEADER)))
    return join((scrolling(figure, f"Newest steps of {record.name}"), listed))


def draw_lane(axes: Axes, place: int, learner: int, spells: Sequence[Spell], start: float) -> None:
    """The bars of one learner; later kinds lie over earlier ones."""
    for kind, (name, colour, top, height) in KINDS.items():
        for spell in spells:
            if spell.kind == kind:
                width = spell.end - spell.start
                (bar,) = axes.bar(
                    [spell.start - start], [height], width, place + top, align="edge", color=series_colour(colour),
                    edgecolor=PAPER if kind == "step" else "none", linewidth=0.8 if kind == "step" else 0,
                )  # fmt: skip
                title = "step" if kind == "step" else name
                name_part(
                    bar, "bar", f"learner {learner}, {title}: {text.duration(width)}, from {spell.start - start:.3f} s"
                )


def shown(timelines: Mapping[int, Sequence[Spell]]) -> tuple[float, dict[int, list[Spell]]]:
    """The start of the picture, and what each learner did from there to the end of the first one that ended.

    A learner that was not there, as one of an earlier part of a run, is left out.
    """
    steps = {learner: [each for each in spells if each.kind == "step"] for learner, spells in timelines.items()}
    newest = max((each.end for found in steps.values() for each in found), default=0.0)
    longest = {
        learner: statistics.median(each.end - each.start for each in found) for learner, found in steps.items() if found
    }
    reach = SHOWN_STEPS * max(longest.values(), default=0.0)
    there = [learner for learner in sorted(longest) if steps[learner][-1].end > newest - 2 * reach][:MOST_LANES]
    if not there:
        return 0.0, {}
    end = min(steps[learner][-1].end for learner in there)
    first = max(steps[learner][0].start for learner in there)
    reach = SHOWN_STEPS * max(longest[learner] for learner in there)
    start = max(first, end - reach)
    lanes = {learner: list(clipped(timelines[learner], start, end)) for learner in there}
    for _ in range(MOST_CUTS):
        if sum(map(len, lanes.values())) <= MOST_MARKS:
            break
        start += (end - start) / 4
        lanes = {learner: list(clipped(timelines[learner], start, end)) for learner in there}
    most = MOST_MARKS // len(lanes)  # of a file that no run has written: spells that all reach the end
    return start, {learner: spells[-most:] for learner, spells in lanes.items() if spells}


def clipped(spells: Iterable[Spell], start: float, end: float) -> Iterable[Spell]:
    """What of the spells lies between two moments."""
    for spell in spells:
        if spell.end > start and spell.start < end and spell.end > spell.start:
            yield Spell(spell.kind, max(spell.start, start), min(spell.end, end))


def shares_of(spells: Sequence[Spell]) -> Shares:
    """What part of its steps a learner computed and waited, and how much of its exchanges lay behind computation."""
    of_kind = {kind: united(spell for spell in spells if spell.kind == kind) for kind in KINDS}
    total = length(of_kind["step"])
    waiting = intersection(of_kind["waiting"], of_kind["step"])
    exchange = of_kind["exchange"]
    exposed = length(intersection(exchange, of_kind["waiting"]))
    data = length(of_kind["data"])
    return Shares(
        steps=sum(spell.kind == "step" for spell in spells),
        compute=max(total - data - length(waiting), 0.0) / total if total else 0.0,
        data=data / total if total else 0.0,
        waiting=length(waiting) / total if total else 0.0,
        exchange=length(exchange) / total if total else 0.0,
        hidden=1 - exposed / length(exchange) if exchange else float("nan"),
    )


Interval = tuple[float, float]


def united(spells: Iterable[Spell]) -> list[Interval]:
    """The union of spells, as intervals that do not touch, in order."""
    found: list[Interval] = []
    for _, start, end in sorted(spells, key=lambda spell: spell.start):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def intersection(first: Sequence[Interval], second: Sequence[Interval]) -> list[Interval]:
    """What lies in both."""
    pairs = ((max(a, c), min(b, d)) for a, b in first for c, d in second)
    return [(start, end) for start, end in pairs if end > start]


def length(intervals: Iterable[Interval]) -> float:
    """Seconds of intervals that do not touch."""
    return sum(end - start for start, end in intervals)


def cells(shares: Shares) -> list[str]:
    """The figures of a learner for the table."""
    return [
        text.percent(part, 1) for part in (shares.compute, shares.data, shares.waiting, shares.exchange, shares.hidden)
    ]


def in_words(shares: Shares) -> str:
    """The figures of a learner for readers who cannot see the picture."""
    named = zip(HEADER[2:], cells(shares), strict=True)
    return ", ".join(f"{name} {cell}" for name, cell in named)
