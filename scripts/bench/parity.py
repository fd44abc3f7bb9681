"""Do variants of a recipe reach the same word error rate? Trains each from the same seeds, on equally many samples.

    python scripts/bench/parity.py --experiment demo --learners 4 --seeds 1 2 3 --folder exp/parity --json parity.json \\
        --variant allreduce backend=allreduce --variant dpsgd backend=dpsgd --override batch.units=4

The first variant is what the others are compared with, paired by utterance, with the errors of all its seeds together.
Intervals are therefore over utterances: how much training runs differ shows in the rates by seed. ``--fold NAME SETTING`` trains all
of it once more with another setting, as with another speaker left out; the errors of all folds are pooled. Every run lies
in a folder of its own, so that the same command goes on where it was interrupted; a folder of another configuration is
refused.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from asr.decoding.bootstrap import REPLICATIONS
from asr.decoding.comparison import Comparison, compare
from asr.decoding.wer import ErrorCounts, count_errors
from asr.reporting.run import read_transcripts
from asr.training.checkpoint import MODEL, best_checkpoint, list_checkpoints
from scripts.bench.report import save_figures
from scripts.environment import environment
from scripts.startup import REPOSITORY, UsageError, run_main

Errors = dict[tuple[str, int], dict[str, ErrorCounts]]  # of a variant: by fold and seed, then by utterance

QUICK = ("trainer.max_steps=12", "trainer.evaluate_every=12", "trainer.checkpoint_every=12")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What all runs have in common."""

    experiment: str
    learners: int
    folder: Path
    overrides: Sequence[str]
    evaluated_set: str

    def errors(self, fold: str, variant: str, overrides: Sequence[str], seed: int) -> dict[str, ErrorCounts]:
        """Train and evaluate one run, errors by fold and utterance.

        Also where the run is there: training refuses a folder of another configuration, and has nothing to do in that
        of a finished run.
        """
        run = self.folder / fold / f"{variant}-{seed}"
        self._refuse_other_learners(run)
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.learners))
        settings = (f"experiment={self.experiment}", f"seed={seed}", f"exp_dir={run.parent}", f"name={run.name}")
        self._call(run, *torchrun, str(REPOSITORY / "scripts/train.py"), *settings, *self.overrides, *overrides)
        results = run / "eval" / self.evaluated_set
        if not is_of_best(results / "wer-greedy.json", run):
            self._call(run, str(REPOSITORY / "scripts/evaluate.py"), f"run={run}", f"sets=[{self.evaluated_set}]")
        return {
            f"{fold}/{each.utterance_id}": count_errors(" ".join(each.reference), " ".join(each.hypothesis))
            for each in read_transcripts(results / "recogs-greedy.txt")
        }

    def _refuse_other_learners(self, run: Path) -> None:
        """How many there are is not part of the configuration: a resume may change it."""
        checkpoints, _ = list_checkpoints(run / "checkpoints")
        others = {each.world_size for each in checkpoints} - {self.learners}
        if others:
            raise UsageError(
                f"--learners {self.learners}: {run} holds a run of {others.pop()}; choose another --folder, or remove it"
            )

    def _call(self, run: Path, *command: str) -> None:
        run.parent.mkdir(parents=True, exist_ok=True)
        log = run.parent / f"{run.name}.log"
        with log.open("a", encoding="utf-8") as output:
            ended = subprocess.run([sys.executable, *command], stdout=output, stderr=subprocess.STDOUT, check=False)
        if ended.returncode:
            raise UsageError(f"{run.name} ended with exit code {ended.returncode}; see {log}")


def is_of_best(figures: Path, run: Path) -> bool:
    """Whether an evaluation's figures are of the run's best checkpoint as it is now."""
    best = best_checkpoint(list_checkpoints(run / "checkpoints")[0])
    return (
        best is not None
        and figures.is_file()
        and figures.stat().st_mtime >= (best.folder / MODEL).stat().st_mtime
        and json.loads(figures.read_text(encoding="utf-8"))["checkpoint"] == best.folder.name
    )


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
    shared = [*options.override, *(QUICK if options.quick else ())]
    folder = options.folder.resolve() / ("quick" if options.quick else "")
    recipe = Recipe(options.experiment, options.learners, folder, shared, options.set)
    seeds = options.seeds[:1] if options.quick else options.seeds
    variants = {name: settings for name, *settings in options.variant}
    folds = {name: settings for name, *settings in options.fold or [[""]]}
    errors: dict[str, Errors] = {name: {} for name in variants}
    # Seed by seed, so that whatever is there when it is interrupted can be compared.
    for seed, (fold, of_fold) in product(seeds, folds.items()):
        for name, settings in variants.items():
            errors[name][fold, seed] = found = recipe.errors(fold, name, [*of_fold, *settings], seed)
            print(f"{' '.join([fold, name]).strip()}, seed {seed}: {total(found).wer:.2%}", flush=True)
    rows = [row(name, variants[name], errors[name], errors[next(iter(variants))]) for name in variants]
    print_table(rows)
    if options.json is not None:
        figures = {f"wer/{each['variant']}": each["wer"] for each in rows}
        figures |= {f"wer_difference/{each['variant']}": each["difference"] for each in rows[1:]}
        save_figures(options.json, figures, rows, made_with, learners=options.learners, seeds=seeds, folds=folds)


def total(errors: Mapping[str, ErrorCounts]) -> ErrorCounts:
    """All utterances together."""
    return sum(errors.values(), ErrorCounts())


def row(name: str, settings: Sequence[str], errors: Errors, baseline: Errors) -> dict[str, Any]:
    """A variant's figures, and its paired difference from the first one over all folds and seeds.

    What one resample draws is an utterance with all its seeds: the same words are hard for every seed.
    """
    own, first = (merged(each.values()) for each in (errors, baseline))
    comparison: Comparison = compare(own, first, replications=REPLICATIONS, seed=0)
    folds, seeds = (list(dict.fromkeys(each)) for each in zip(*errors, strict=True))
    return {
        "variant": name,
        "settings": list(settings),
        "wer_by_seed": {str(seed): total(merged(errors[fold, seed] for fold in folds)).wer for seed in seeds},
        "wer_by_fold": {fold: total(merged(errors[fold, seed] for seed in seeds)).wer for fold in folds if fold},
        "wer": comparison.wer,
        "difference": comparison.difference,
        "difference_interval": comparison.interval,
        "reference_words": total(own).reference_words,
    }


def merged(parts: Iterable[Mapping[str, ErrorCounts]]) -> dict[str, ErrorCounts]:
    """The errors of several runs together, summed by utterance."""
    sums: dict[str, ErrorCounts] = {}
    for part in parts:
        for key, counts in part.items():
            sums[key] = sums.get(key, ErrorCounts()) + counts
    return sums


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """In Markdown."""
    print("| variant | WER by seed | WER | difference, absolute | 95 % interval |\n|---|---|---|---|---|")
    for each in rows:
        by_seed = ", ".join(f"{wer:.2%}" for wer in each["wer_by_seed"].values())
        low, high = each["difference_interval"]
        print(
            f"| {each['variant']} | {by_seed} | {each['wer']:.2%} | {100 * each['difference']:+.2f} | "
            f"{100 * low:+.2f} to {100 * high:+.2f} |"
        )


if __name__ == "__main__":
    run_main(main)
