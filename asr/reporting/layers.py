"""The report's section on layers: any metric that rows hold for each layer of the model, as ``<what>/<name of a module>``.

Sparsity, bits, formats, bounds: whatever a method logs under keys that end in dotted names of modules, such as
``sparsity/encoder.blocks.0.feed_forward.linear_1``, is shown here without more ado; values may be numbers or words. Shown
are the newest values, the mean over learners of numbers, in the order of the model's layers.
"""

import math
import re
from collections import defaultdict
from collections.abc import Sequence

from matplotlib.ticker import FuncFormatter, MaxNLocator

from asr.reporting import text
from asr.reporting.charts import chart, legend_of
from asr.reporting.kept_units import is_of_pruning
from asr.reporting.page import Html, details, grid, join, table
from asr.reporting.plots import WIDTH_INCHES
from asr.reporting.run import RunRecord
from asr.reporting.svg import name_part, new_axes, series_colour
from asr.runs.costs import number

ROW_INCHES = 0.17
MOST_LAYERS = 60  # with a mark each in a picture; tables have all
Values = dict[str, dict[str, float | str]]  # by prefix and layer


def is_of_layer(key: str) -> bool:
    """Whether a metric is one layer's, by the dotted name of a module at its end, and has no section of its own."""
    prefix, _, layer = key.rpartition("/")
    return bool(prefix) and not prefix.startswith("eval") and "." in layer and not is_of_pruning(key)


def layer_values(record: RunRecord) -> Values:
    """The newest value of each metric of each layer."""
    newest: dict[str, dict[int, float | str]] = defaultdict(dict)
    keys = [key for key in record.metric_keys() if is_of_layer(key)]
    for learner, rows in record.rows.items() if keys else ():
        for row in rows:
            for key in keys:
                value = row.get(key)
                if isinstance(value, str) or math.isfinite(number(row, key)):
                    newest[key][learner] = value if isinstance(value, str) else number(row, key)
    found: Values = defaultdict(dict)
    for key, by_learner in newest.items():
        prefix, _, layer = key.rpartition("/")
        values = list(by_learner.values())
        numbers = [value for value in values if not isinstance(value, str)]
        found[prefix][layer] = values[-1] if len(numbers) < len(values) else sum(numbers) / len(numbers)
    return found


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sorts names as people do: block 9 before block 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def layers_section(records: Sequence[RunRecord]) -> Html:
    """A picture for each kind of value, and a table of all; empty where no run logs any."""
    values = [layer_values(record) for record in records]
    prefixes = sorted({prefix for each in values for prefix in each})
    charts = [layer_chart(records, prefix, [each.get(prefix, {}) for each in values]) for prefix in prefixes]
    pictures = grid([chart for chart in charts if chart is not None])
    several = len(records) > 1
    tables = [
        details(
            record.name if several else "all layers", layer_table(each, record.name), run=index if several else None
        )
        for index, (each, record) in enumerate(zip(values, records, strict=True))
        if each
    ]
    return join((pictures, *tables))


def layer_table(values: Values, name: str) -> Html:
    """A row for each layer, a column for each kind of value."""
    prefixes = sorted(values)
    layers = sorted({layer for each in values.values() for layer in each}, key=natural_order)
    rows = [[layer, *(shown(values[prefix].get(layer)) for prefix in prefixes)] for layer in layers]
    return table(["layer", *prefixes], rows, f"Layers of {name}", numbers=range(1, len(prefixes) + 1))


def shown(value: float | str | None) -> str:
    """A value as text."""
    return text.MISSING if value is None else value if isinstance(value, str) else text.figure(value)


def layer_chart(records: Sequence[RunRecord], prefix: str, values: Sequence[dict[str, float | str]]) -> Html | None:
    """Marks for the values of each layer; None where they are words, or too many to be told apart."""
    numbers = [{layer: value for layer, value in each.items() if not isinstance(value, str)} for each in values]
    layers = sorted({layer for each in numbers for layer in each}, key=natural_order)
    if not layers or len(layers) > MOST_LAYERS:
        return None
    axes, described = new_axes(WIDTH_INCHES, 0.7 + ROW_INCHES * len(layers)), []
    axes.grid(visible=False)
    axes.grid(axis="x", linewidth=0.4)
    for index, (record, by_layer) in enumerate(zip(records, numbers, strict=True)):
        for layer, value in by_layer.items():
            (mark,) = axes.plot([value], [layers.index(layer)], "o", color=series_colour(index), markersize=5)
            name_part(mark, "bar", f"{record.name}, {layer}: {text.figure(value)}", index)
        ordered = [f"{layer} {text.figure(by_layer[layer])}" for layer in layers if layer in by_layer]
        described.append(f"{record.name}: {', '.join(ordered) or 'none'}")
    axes.set_yticks(range(len(layers)), layers, fontsize=6.5)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(text.compact))
    description = f"{prefix} by layer. {'; '.join(described)}"
    return chart(
        axes, f"layers-{prefix}", prefix, "newest value of each layer", description, legend_of(records), curves=False
    )
