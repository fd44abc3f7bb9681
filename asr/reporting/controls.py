"""What the reader may choose on a page: over what curves are drawn, and which runs are shown. Hidden without the script."""

from collections.abc import Sequence

from asr.reporting.axes import QUANTITIES, scales
from asr.reporting.charts import stroke
from asr.reporting.page import Html, join, tag
from asr.reporting.run import RunRecord
from asr.reporting.svg import series_dash


def controls(records: Sequence[RunRecord]) -> Html:
    """The controls of a page about some runs, with the tables that they need."""
    tables, found = scales(records)
    parts = [axis_choice(found)] if len(found) > 1 else []
    if len(records) > 1:
        parts.append(run_choice(records))
    shown = tag("div", join(parts), class_="controls", hidden="") if parts else Html("")
    return join((shown, tables))


def axis_choice(found: set[str]) -> Html:
    """One of the quantities that curves can be drawn over."""
    choices = [
        tag("label", tag("input", type="radio", name="over", value=name), title)
        for name, title in QUANTITIES.items()
        if name in found
    ]
    return tag("fieldset", tag("legend", "Curves over"), *choices)


def run_choice(records: Sequence[RunRecord]) -> Html:
    """A box for each run, and a field that filters them by name."""
    boxes = [
        tag(
            "label",
            tag("input", type="checkbox", value=index, data_name=record.name, checked=""),
            stroke(index, series_dash(index)),
            f"{index + 1}. {record.name}",
        )
        for index, record in enumerate(records)
    ]
    named = tag("input", type="search", placeholder="part of a name", aria_label="Show runs whose names contain")
    return tag("fieldset", tag("legend", "Runs"), named, *boxes)
