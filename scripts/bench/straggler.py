"""One slow learner among several: time of an epoch under each scheme, relative to the time when none is slow.

    python scripts/bench/straggler.py --json straggler.json

Part one has four learners whose computation is emulated by sleeping, so that they fit on two cores; communication,
mixing and the hand-out of units are the real ones. Part two has two learners with real computation, pinned to a core
each, of which one computes more per unit. An epoch is a fixed number of units. Schemes in lockstep give each learner
one unit per step; in asynchronous schemes each learner claims its next unit. The tail, from the first learner that
finds no more units to the end of the last, is part of the epoch and also listed separately. Cases take turns; results
are medians over turns, ratios are relative to the same scheme with no slow learner in the same turn.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from scripts.bench.learners import run_learners
from scripts.bench.report import save_figures
from scripts.bench.straggler_learner import ASYNCHRONOUS, Case, Outcome, run_emulated, run_real
from scripts.composition.startup import run_main

Found = dict[str, Any]
QUICK_UNITS_PER_LEARNER, QUICK_STEPS = 80, 20  # the latter of schemes in lockstep, which have no tail


@dataclass(frozen=True, slots=True)
class Part:
    """A set of learners and the schemes that they compare."""

    compute: str  # emulated or real
    suffix: str  # suffix of its result keys
    learners: int
    schemes: tuple[str, ...]
    run: Callable[..., list[Outcome]]


PARTS = (
    Part("emulated", "", 4, ("allreduce", "delay_by_one", *ASYNCHRONOUS), run_emulated),
    Part("real", "_real", 2, ("allreduce", "delay_by_one", "adpsgd-ring"), run_real),
)


def main(arguments: list[str]) -> None:
    """Measure all schemes in turn, several times, and report medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--quick", action="store_true", help="fewer units and one repetition: under a minute")
    parser.add_argument("--units", type=int, default=400, help="of an epoch, per learner")
    parser.add_argument("--unit-ms", type=float, default=20.0, help="computation of a unit")
    parser.add_argument("--parameters", type=int, default=100_000, help="float32 weights that travel")
    parser.add_argument("--slowdowns", type=float, nargs="+", default=[5.0, 10.0], help="of one learner")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args(arguments)
    if options.quick:
        options.units, options.repetitions = QUICK_UNITS_PER_LEARNER, 1
    rows = [row for part in PARTS for row in summarise(part, measure(part, options), options.unit_ms / 1000)]
    print(table(rows))
    if options.json:
        how = {
            "compute": "emulated by sleeping (4 learners); measured (2 learners, _real)",
            "communication": "measured",
        }
        save_figures(options.json, figures(rows), rows, how=how)


def cases_of(part: Part, options: argparse.Namespace) -> list[Case]:
    """The epochs of a part, in the order in which they run."""

    def units(scheme: str) -> int:
        steps = min(options.units, QUICK_STEPS) if options.quick and scheme not in ASYNCHRONOUS else options.units
        return part.learners * steps

    return [
        Case(repetition, scheme, slowdown, units(scheme), options.unit_ms / 1000)
        for repetition in range(options.repetitions)
        for scheme in part.schemes
        for slowdown in sorted({1.0, *options.slowdowns})  # each once: a pool of units is of one epoch
    ]


def measure(part: Part, options: argparse.Namespace) -> list[tuple[Case, list[Outcome]]]:
    """Run every epoch and return it with the outcome of each learner."""
    cases = cases_of(part, options)
    by_learner = run_learners(part.learners, part.run, options.parameters, cases, pinned=part.compute == "real")
    return [(case, [outcomes[i] for outcomes in by_learner]) for i, case in enumerate(cases)]


def summarise(part: Part, measured: Sequence[tuple[Case, list[Outcome]]], unit_seconds: float) -> list[Found]:
    """One row per scheme and slowdown: medians over repetitions, ratios over none slow in the same repetition."""
    none = {(case.repetition, case.scheme): epoch_figures(case, all_) for case, all_ in measured if case.slowdown == 1}
    runs: dict[tuple[str, float], list[Found]] = {}
    for case, outcomes in measured:
        found, usual = epoch_figures(case, outcomes), none[case.repetition, case.scheme]
        found["epoch_ratio"] = found["seconds"] / usual["seconds"]
        found["healthy_speed"] = found["healthy_units_per_second"] / usual["healthy_units_per_second"]
        found["unit_over_nominal"] = 1 / (usual["healthy_units_per_second"] * unit_seconds)
        runs.setdefault((case.scheme, case.slowdown), []).append(found)
    rows = []
    for (scheme, slowdown), repeated in runs.items():
        row: Found = {"compute": part.compute, "suffix": part.suffix, "scheme": scheme, "slowdown": slowdown}
        row["ideal_ratio"] = part.learners / (part.learners - 1 + 1 / slowdown) if scheme in ASYNCHRONOUS else slowdown
        rows.append(row | {key: statistics.median(each[key] for each in repeated) for key in repeated[0]})
    return rows


def epoch_figures(case: Case, outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Duration and tail of an epoch in seconds, and the pace of the learners that are not slow."""
    began, first, last = (
        min(each.began for each in outcomes),
        min(each.ended for each in outcomes),
        max(each.ended for each in outcomes),
    )
    return {
        "units": case.units,
        "seconds": last - began,
        "tail_seconds": last - first,
        "healthy_units_per_second": statistics.mean(each.units / (each.ended - began) for each in outcomes[1:]),
        "slow_units": outcomes[0].units,
    }


def figures(rows: Sequence[Found]) -> dict[str, float]:
    """The rows as flat results, keyed by scheme and slowdown; those of real computation have separate keys."""
    found = {}
    for row in rows:
        if row["slowdown"] == 1.0:
            found[f"unit_over_nominal{row['suffix']}/{row['scheme']}"] = row["unit_over_nominal"]
            continue
        for key in ("epoch_ratio", "healthy_speed", "tail_seconds"):
            found[f"{key}{row['suffix']}/{row['scheme']}/{row['slowdown']:g}x"] = row[key]
    return found


def table(rows: Sequence[Found]) -> str:
    """The rows in Markdown."""
    lines = [
        "| compute | scheme | slowdown | epoch s | over none | ideal | tail s | healthy learners' speed | units of the slow one |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['compute']} | {row['scheme']} | {row['slowdown']:g}x | {row['seconds']:.2f} | "
            f"{row['epoch_ratio']:.2f} | {row['ideal_ratio']:.2f} | {row['tail_seconds']:.2f} | "
            f"{row['healthy_speed']:.2f} | {row['slow_units']:.0f} of {row['units']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
