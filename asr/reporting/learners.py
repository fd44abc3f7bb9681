"""The report's section on learners: their shares of the work, their distances from each other, and the effects.

The numbers come from the metrics of backends (``comm/*``, ``consensus/*``) and of the hook ``diagnostics``
(arXiv 2112.01433); docs/backends.md and docs/methods/diagnostics.md say what they mean. Runs that lack them have no
such section.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from asr.reporting import text
from asr.reporting.charts import chart, legend_of
from asr.reporting.figures import exposed_part, of_learner, per_step, total_of
from asr.reporting.page import Html, details, grid, join, table
from asr.reporting.plots import HEIGHT_INCHES, WIDTH_INCHES, Curve, curve_chart, keys_chart
from asr.reporting.run import RunRecord
from asr.reporting.svg import name_part, new_axes, series_colour

STALENESS = "comm/staleness/"  # before the number of updates; the value is a number of exchanges
DISTANCES = (
    Curve("consensus/distance", "Distance between learners", "mean squared distance from their mean"),
    Curve(
        "consensus/relative_distance",
        "Relative distance",
        "mean squared distance over the squared norm of the mean",
    ),
)
RATES = {"diagnostics/alpha_e": "effective", "train/lr": "as scheduled"}
NOISES = {
    "diagnostics/delta": "of the step, Delta",
    "diagnostics/delta_s": "of mini-batches alone, Delta_S",
    "diagnostics/delta_2": "of the learners' distances, Delta(2)",
}
VARIANCE = Curve("diagnostics/sigma_w2", "Variance of the weights", "sigma_w^2, with one over n^2")
SHOWN = frozenset(
    {"data/units", "comm/staleness_mean", "comm/rounds_per_step", *RATES, *NOISES}
    | {curve.key for curve in (*DISTANCES, VARIANCE)}
)
STALENESSES = Curve("comm/staleness_mean", "Mean staleness", "own updates between snapshot and mixing")
UNITS = Curve("data/units", "Units processed", "by each learner", from_zero=True)
MOST_LEARNERS = 16  # with a line each in a table; more are folded away
COLUMNS = (
    "learner",
    "steps",
    "units",
    "share",
    "waiting for others, per step",
    "of a step",
    "rounds per step",
    "sent",
    "mean staleness",
)


def shown_here(key: str) -> bool:
    """True if this section of the page shows the metric."""
    return key.startswith(STALENESS) or key in SHOWN


def learners_section(runs: Sequence[RunRecord]) -> Html:
    """The section on learners: their shares of the work, their distances and the effects."""
    several = len(runs) > 1
    shown = []
    for index, run in enumerate(runs):
        listed = learners_table(run)
        if listed and (several or run.learners > MOST_LEARNERS):
            listed = details(run.name if several else f"{run.learners} learners", listed, run=index)
        shown.append(listed)
    return join((*shown, grid(learner_charts(runs))))


def learner_charts(records: Sequence[RunRecord]) -> list[Html]:
    """Charts of distances, diagnostics and staleness; charts without data are left out."""
    measured = any("diagnostics/alpha_e" in row for record in records for row in record.all_rows())
    charts = [
        *(curve_chart(records, curve) for curve in DISTANCES),
        curve_chart(records, UNITS) if any(share_differs(record) for record in records) else None,
        curve_chart(records, STALENESSES),
        keys_chart(records, RATES, "rates", "Effective learning rate", "") if measured else None,
        keys_chart(records, NOISES, "noises", "Strength of the noise in a step", "squared length"),
        curve_chart(records, VARIANCE),
        staleness_chart(records),
    ]
    return [chart for chart in charts if chart is not None]


def share_differs(record: RunRecord) -> bool:
    """Whether learners have processed different numbers of units, as without lockstep."""
    return len({of_learner(record, learner).most("data/units") for learner in record.rows}) > 1


def staleness_of(record: RunRecord) -> Counter[int]:
    """The number of exchanges of all learners, by staleness."""
    counted: Counter[int] = Counter()
    is_counted = any(key.startswith(STALENESS) for key in record.metric_keys())
    for row in record.all_rows() if is_counted else ():
        for key, value in row.items():
            age = key.removeprefix(STALENESS)
            if age != key and age.isdigit() and isinstance(value, int | float):
                counted[int(age)] += int(value)
    return counted


def staleness_chart(records: Sequence[RunRecord]) -> Html | None:
    """A histogram of staleness, in percent of a run's exchanges, with bars side by side where runs are several."""
    counted = [staleness_of(record) for record in records]
    if not any(counted):
        return None
    axes, said = new_axes(WIDTH_INCHES, HEIGHT_INCHES), []
    width = 0.8 / len(records)
    for index, (record, exchanges) in enumerate(zip(records, counted, strict=True)):
        ages, total = sorted(exchanges), exchanges.total()
        percent = [100 * exchanges[age] / total for age in ages]
        places = np.array(ages, dtype=float) + (index - (len(records) - 1) / 2) * width
        bars = axes.bar(places, percent, width, color=series_colour(index))
        for age, part, bar in zip(ages, percent, bars, strict=True):
            name_part(bar, "bar", f"{record.name}, staleness {age}: {text.figure(part)} %", index)
        listed = ", ".join(f"{age}: {text.figure(part)} %" for age, part in zip(ages, percent, strict=True))
        said.append(f"{record.name}, {text.count(total)} exchanges: {listed or 'none'}")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(text.compact))
    axes.set_xlim(-0.6, max(max(exchanges, default=0) for exchanges in counted) + 0.6)
    note = "percent of exchanges, over own updates between snapshot and mixing"
    description = f"Staleness. {'; '.join(said)}"
    return chart(axes, "staleness", "Staleness of exchanges", note, description, legend_of(records), curves=False)


def learners_table(record: RunRecord) -> Html:
    """A row per learner: its share of the units and its cost of communication; empty for a single learner."""
    if len(record.rows) < 2:
        return Html("")
    learners = [of_learner(record, learner) for learner in sorted(record.rows)]
    units = sum(value for learner in learners if math.isfinite(value := learner.most("data/units")))
    lines = [[str(name), *_cells(learner, units)] for name, learner in zip(sorted(record.rows), learners, strict=True)]
    filled = [column for column in range(len(COLUMNS)) if any(line[column] != text.MISSING for line in lines)]
    rows = [[line[column] for column in filled] for line in lines]
    return table([COLUMNS[column] for column in filled], rows, "Learners", numbers=range(1, len(filled)))


def _cells(learner: RunRecord, units: float) -> list[str]:
    """The cells of one learner's row, in the order of ``COLUMNS[1:]``; ``units`` counts the units of all learners."""
    own, exposed = learner.most("data/units"), per_step(learner, "time/comm_exposed")
    exchanges = staleness_of(learner)
    stale = sum(age * count for age, count in exchanges.items()) / exchanges.total() if exchanges else math.nan
    return [
        text.count(learner.most("step")),
        text.count(own),
        text.percent(own / units if units else math.nan, 1),
        text.duration(exposed),
        text.percent(exposed_part(learner), 1),
        text.figure(per_step(learner, "comm/rounds_per_step")),
        text.compact_bytes(sent) if math.isfinite(sent := total_of(learner, "comm/bytes_sent")) else text.MISSING,
        text.figure(stale),
    ]
