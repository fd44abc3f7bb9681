"""The report of a run: one self-contained HTML page; of several runs: the same page, comparing them."""

from collections.abc import Sequence

from asr.reporting import text
from asr.reporting.comparison import comparison
from asr.reporting.compression import compression_section, is_of_compression
from asr.reporting.controls import controls
from asr.reporting.headline import headline
from asr.reporting.kept_units import is_of_pruning, kept_units
from asr.reporting.lattice import LatticePicture
from asr.reporting.layers import is_of_layer, layers_section
from asr.reporting.learners import learners_section, shown_here
from asr.reporting.page import Html, Section, details, grid, join, render, table
from asr.reporting.plots import cost_charts, other_figures, training_charts
from asr.reporting.provenance import configuration, environments
from asr.reporting.results import errors, lattice_section, results_table
from asr.reporting.run import RunRecord
from asr.reporting.time_picture import time_section
from distributed.errors import UsageError


def report(
    records: RunRecord | Sequence[RunRecord],
    lattices: Sequence[LatticePicture] = (),
    *,
    baseline: int = 0,
    watched_seconds: int | None = None,
) -> str:
    """The page of one run, or of several compared with run number ``baseline``. Sections without data are left out.

    ``watched_seconds``: how often the page asks its server for a newer one; None: it has no server.
    """
    runs = [records] if isinstance(records, RunRecord) else list(records)
    if not runs:
        raise UsageError("a report needs at least one run, got none; name run folders")
    title = runs[0].name if len(runs) == 1 else f"Comparison of {len(runs)} runs"
    sections = [
        ("Comparison", comparison(runs, baseline) if len(runs) > 1 else Html("")),
        ("Results", results_table(runs)),
        ("Training", grid(training_charts(runs))),
        ("Time and throughput", join((grid(cost_charts(runs)), time_section(runs)))),
        ("Learners", learners_section(runs)),
        ("Compression", compression_section(runs)),
        ("Layers", layers_section(runs)),
        ("Units kept", kept_units(runs)),
        ("Errors", errors(runs)),
        ("Alignments", lattice_section(lattices)),
        ("Other figures", others(runs)),
        ("Configuration", configuration(runs)),
        ("Environment", environments(runs)),
    ]
    filled = [Section(name, body) for name, body in sections if body]
    top = join((headline(runs, title), controls(runs)))
    return render(f"{title} – Murmuration", filled, top, watched_seconds=watched_seconds)


def others(runs: Sequence[RunRecord]) -> Html:
    """Further metrics of hooks and backends, folded away; those that never changed are only listed."""
    charts, constants = other_figures(
        runs, elsewhere=lambda key: shown_here(key) or is_of_compression(key) or is_of_layer(key) or is_of_pruning(key)
    )
    rows = [(key, text.figure(value)) for key, value in constants]
    listed = [table(("never changed", "value"), rows, "Figures that never changed", numbers=(1,))] if rows else []
    inside = [*listed, *([grid(charts)] if charts else [])]
    return details(f"{len(charts) + len(rows)} more figures", *inside) if inside else Html("")
