"""Do variants of a recipe reach the same word error rate? Trains each from the same seeds, on equally many samples.

    python scripts/bench/parity.py --experiment demo --learners 4 --seeds 1 2 3 --folder exp/parity --json parity.json \\
        --variant allreduce backend=allreduce --variant dpsgd backend=dpsgd --override batch.units=4

The first variant is what the others are compared with, paired by utterance, with the errors of all its seeds together
(scripts/bench/paired.py). ``--fold NAME SETTING`` trains all of it once more with another setting, as with another
speaker left out; the errors of all folds are pooled. The same command goes on where it was interrupted.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from asr.decoding.wer import ErrorCounts
from distributed.errors import UsageError
from scripts.bench.paired import Errors, print_table, row, total
from scripts.bench.report import save_figures
from scripts.bench.trials import QUICK, Trials
from scripts.composition.environment import environment
from scripts.composition.startup import run_main


def main(arguments: list[str]) -> None:
    """Train all variants from all seeds, print a table in Markdown, save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="demo", help="conf/experiment/<this>.yaml")
    parser.add_argument("--learners", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--folder", type=Path, default=Path("exp/parity"), help="where the runs go")
    parser.add_argument("--set", default="test", help="what is evaluated, with each run's best checkpoint")
    parser.add_argument("--override", action="append", default=[], help="a setting of all runs")
    parser.add_argument("--variant", nargs="+", action="append", required=True, metavar=("NAME", "SETTING"))
    parser.add_argument("--fold", nargs="+", action="append", metavar=("NAME", "SETTING"), help="train all with these")
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--quick", action="store_true", help="a few steps of each, from one seed, in FOLDER/quick")
    options = parser.parse_args(arguments)
    made_with = environment()
    shared = [f"experiment={options.experiment}", *options.override, *(QUICK if options.quick else ())]
    folder = options.folder.resolve() / ("quick" if options.quick else "")
    trials = Trials(options.learners, folder, options.set)
    seeds = options.seeds[:1] if options.quick else options.seeds
    variants, folds = named("--variant", options.variant), named("--fold", options.fold or [[""]])

    def errors_of(name: str, fold: str, seed: int) -> dict[str, ErrorCounts]:
        run = trials.run(fold, f"{name}-{seed}")
        trials.train(run, f"seed={seed}", *shared, *folds[fold], *variants[name])
        return trials.errors(run, [], fold)

    rows = compared(variants, list(folds), seeds, errors_of)
    if options.json is not None:
        save_figures(
            options.json, figures_of(rows), rows, made_with, learners=options.learners, seeds=seeds, folds=folds
        )


def compared(
    variants: Mapping[str, Sequence[str]],
    folds: Sequence[str],
    seeds: Sequence[int],
    errors_of: Callable[[str, str, int], dict[str, ErrorCounts]],
) -> list[dict[str, Any]]:
    """The rows of all variants against the first, printed as a table; ``errors_of``: variant, fold, seed -> errors.

    Seed by seed, so that whatever is there when it is interrupted can be compared.
    """
    errors: dict[str, Errors] = {name: {} for name in variants}
    for seed, fold, name in product(seeds, folds, variants):
        errors[name][fold, seed] = found = errors_of(name, fold, seed)
        print(f"{' '.join([fold, name]).strip()}, seed {seed}: {total(found).wer:.2%}", flush=True)
    rows = [row(name, variants[name], errors[name], errors[next(iter(variants))]) for name in variants]
    print_table(rows)
    return rows


def figures_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The figures of a table of variants."""
    rates = {f"wer/{each['variant']}": each["wer"] for each in rows}
    return rates | {f"wer_difference/{each['variant']}": each["difference"] for each in rows[1:]}


def named(option: str, given: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Map the name in front of each setting to the settings."""
    found: dict[str, list[str]] = {}
    for name, *settings in given:
        if name in found:
            raise UsageError(f"{option} {name} is given twice; runs are told apart by it: choose another name")
        found[name] = settings
    return found


if __name__ == "__main__":
    run_main(main)
