"""A picture for every training method: word error rates against the budget, the seeds as points, the baseline beside it.

    python scripts/bench/methods_figure.py docs/results/methods-speechocean762.json docs/results/methods-speechocean762-24.json \\
        --figure docs/images/methods-speechocean762.svg

The records are those of scripts/bench/methods.py on one corpus, each with another ``--epochs``. Lines join the means over seeds; a
method is drawn at the budgets that it has been measured at.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, PercentFormatter

from distributed.errors import UsageError
from scripts.bench.methods import BASELINE, SEARCHES
from scripts.composition.startup import run_main

Curves = dict[str, dict[int, list[float]]]  # by variant and budget in epochs, the word error rates of the seeds
COLUMNS = 4


def main(arguments: list[str]) -> None:
    """Draw all methods of the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, nargs="+", help="JSON files of scripts/bench/methods.py")
    parser.add_argument("--search", default=SEARCHES[0], help="one of those that the records have")
    parser.add_argument("--figure", type=Path, required=True, help="where to save the picture (.svg or .png)")
    options = parser.parse_args(arguments)
    found = curves([json.loads(path.read_text(encoding="utf-8")) for path in options.records], options.search)
    draw(options.figure, found, options.search)
    print(f"{options.figure}: {len(found) - 1} methods")


def curves(records: Sequence[Mapping[str, Any]], search: str) -> Curves:
    """The word error rates of every variant.

    Raises:
        UsageError: a record does not say its budget, two have the same one, or one has no such search or no baseline.
    """
    found: Curves = {BASELINE: {}}
    for record in records:
        epochs = record.get("epochs")
        if epochs is None or epochs in found[BASELINE]:
            wrong = "does not say its epochs" if epochs is None else f"has the {epochs} epochs of another one"
            raise UsageError(f"the record of {record['command']!r} {wrong}: give one for each budget")
        searches = list(dict.fromkeys(row["search"] for row in record["rows"]))
        if search not in searches:
            raise UsageError(f"--search {search!r}: the record of {record['command']!r} has {', '.join(searches)}")
        rows = {row["variant"]: row for row in record["rows"] if row["search"] == search}
        if BASELINE not in rows:
            raise UsageError(f"the record of {record['command']!r} has no {BASELINE} under {search} search")
        for variant, row in rows.items():
            found.setdefault(variant, {})[epochs] = list(row["wer_by_seed"].values())
    return found


def draw(path: Path, found: Curves, search: str) -> None:
    """A panel for each method; UsageError without any."""
    methods = [variant for variant in found if variant != BASELINE]
    if not methods:
        raise UsageError(f"the records have no method beside the {BASELINE}: there is nothing to draw")
    lines = -(-len(methods) // COLUMNS)
    figure = Figure(figsize=(2.8 * min(COLUMNS, len(methods)), 2.6 * lines), layout="constrained")
    panels = figure.subplots(lines, min(COLUMNS, len(methods)), sharex=True, sharey=True, squeeze=False).flat
    for method, axes in zip(methods, panels, strict=False):
        for variant, colour, shift in ((BASELINE, "0.5", -0.02), (method, "tab:blue", 0.02)):
            budgets = sorted(found[variant])
            beside = [budget * (1 + shift) for budget in budgets]  # so that points of both can be seen
            axes.plot(beside, [statistics.fmean(found[variant][each]) for each in budgets], color=colour, label=variant)
            for place, budget in zip(beside, budgets, strict=True):
                rates = found[variant][budget]
                axes.plot([place] * len(rates), rates, "o", color=colour, markersize=4, alpha=0.7)
        axes.set_title(method, fontsize=9)
        axes.xaxis.set_major_locator(FixedLocator(sorted(found[BASELINE])))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in panels:  # places without a method
        axes.set_axis_off()
    figure.supxlabel("epochs", fontsize=9)
    figure.supylabel(f"word error rate, {search}; grey: {BASELINE}", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    run_main(main)
