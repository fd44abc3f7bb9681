"""What structured pruning keeps: a picture of the parts of every layer, from the newest evaluation while training.

Columns are layers, rows are parts of a layer, and a cell says which fraction of its units (heads, channels, cells) is kept.
"""

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from asr.reporting import text
from asr.reporting.lattice import MID_BLUE
from asr.reporting.page import Html, join, scrolling, table, tag
from asr.reporting.run import RunRecord
from asr.reporting.svg import FONT_SIZE, INK, inline_svg, new_axes

PREFIX = "structured_pruning/kept/"
CELL_INCHES = 0.46
LEFT_INCHES = 1.9
IN_A_LAYER = re.compile(r"(?:.*\.)?(?:blocks|layers)\.(\d+)\.(.+)")


def is_of_pruning(key: str) -> bool:
    """Whether this section shows a metric."""
    return key.startswith(PREFIX)


def kept_units(records: Sequence[RunRecord]) -> Html:
    """A picture and a table for each run that was pruned; empty where none was."""
    return join(_of_run(record, f"kept-{index}", len(records) > 1) for index, record in enumerate(records))


def fractions_kept(record: RunRecord) -> tuple[dict[str, dict[int, float]], dict[str, float]]:
    """Fractions by part and layer, and those of what is in no layer, of the newest evaluation."""
    layers: dict[str, dict[int, float]] = {}
    others: dict[str, float] = {}
    for key in record.metric_keys():
        if not is_of_pruning(key) or not math.isfinite(value := record.last(key)):
            continue
        name = key.removeprefix(PREFIX)
        found = IN_A_LAYER.fullmatch(name)
        if found is None:
            others[name] = value
        else:
            layers.setdefault(found[2], {})[int(found[1])] = value
    return layers, others


def _of_run(record: RunRecord, name: str, several: bool) -> Html:
    layers, others = fractions_kept(record)
    parts: list[Html] = [tag("h3", record.name)] if several and (layers or others) else []
    if layers:
        parts.append(tag("figure", scrolling(_picture(layers, name), "Fraction of units kept, by layer")))
    if others:
        rows = [(each, text.percent(value)) for each, value in others.items()]
        parts.append(table(("in no layer", "kept"), rows, "Fraction of units kept", numbers=(1,)))
    return join(parts)


def _picture(layers: dict[str, dict[int, float]], name: str) -> Html:
    rows, columns = list(layers), max(max(each) for each in layers.values()) + 1
    fraction_RL: NDArray[np.float64] = np.full((len(rows), columns), np.nan)
    for row, part in enumerate(rows):
        for layer, value in layers[part].items():
            fraction_RL[row, layer] = value
    axes = new_axes(LEFT_INCHES + CELL_INCHES * columns, 0.5 + CELL_INCHES * len(rows))
    axes.grid(visible=False)
    image_RLC = np.empty((*fraction_RL.shape, 4))
    image_RLC[..., :3] = MID_BLUE
    image_RLC[..., 3] = 0.85 * np.nan_to_num(fraction_RL).clip(0, 1)
    axes.imshow(image_RLC, aspect="auto", interpolation="none")
    for row, layer in zip(*np.nonzero(np.isfinite(fraction_RL)), strict=True):
        shown = f"{100 * fraction_RL[row, layer]:.0f}"
        axes.text(layer, row, shown, ha="center", va="center", color=INK, fontsize=FONT_SIZE)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(columns), [str(layer) for layer in range(columns)])
    means = "; ".join(f"{part}: {100 * np.mean(list(each.values())):.0f} % on average" for part, each in layers.items())
    return inline_svg(axes, name, f"Percent of units kept, by layer. {means}", "plot wide")
