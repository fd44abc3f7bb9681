"""Do variants of a recipe reach the same word error rate? As scripts/bench/parity.py, with simulated learners in one process.

    python scripts/bench/simulated_parity.py --learners 16 --seeds 1 2 3 --kept exp/kept.jsonl --json found.json \\
        --override experiment=fsdd_connected --override hooks=[] --override batch.units=16 --variant allreduce backend=allreduce --variant dpsgd backend=dpsgd backend.topology=random_ring

Learners train as scripts/bench/simulated_training.py says, one unit of the plan each, and their mean weights after the last step are
evaluated. The first variant is what the others are compared with, paired by utterance, with the errors of all its seeds together
(scripts/bench/paired.py). ``--fold NAME SETTING`` makes all of them once more with another setting, as with another speaker left
out; the errors of all folds are pooled. Runs that ``--kept`` holds are not made again.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import torch

from asr.decoding.wer import ErrorCounts
from asr.training.precision import flush_denormals
from scripts.bench.kept import Kept
from scripts.bench.parity import compared, figures_of, named
from scripts.bench.report import save_figures
from scripts.bench.simulated_training import SimulatedRun
from scripts.composition.compose import compose
from scripts.composition.environment import environment
from scripts.composition.startup import run_main


def main(arguments: list[str]) -> None:
    """Train all variants from all seeds, print a table in Markdown, save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learners", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--set", default="test", help="what is evaluated")
    parser.add_argument("--override", action="append", default=[], help="a setting of all runs")
    parser.add_argument("--variant", nargs="+", action="append", required=True, metavar=("NAME", "SETTING"))
    parser.add_argument("--fold", nargs="+", action="append", metavar=("NAME", "SETTING"), help="make all with these")
    parser.add_argument("--kept", type=Path, help="where runs are kept, so that the same command goes on")
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--quick", action="store_true", help="two steps of each, from one seed")
    options = parser.parse_args(arguments)
    made_with = environment()
    flush_denormals()
    torch.set_num_threads(1)
    seeds = options.seeds[:1] if options.quick else options.seeds
    learners = options.learners
    shared = list(options.override)
    if options.quick:
        shared.append("trainer.max_steps=2")
    variants, folds = named("--variant", options.variant), named("--fold", options.fold or [[""]])
    kept = Kept(options.kept, {"shared": shared, "learners": learners, "set": options.set})

    def errors_of(name: str, fold: str, seed: int) -> dict[str, ErrorCounts]:
        settings = variants[name]
        train = partial(trained, [*shared, *folds[fold], *settings, f"seed={seed}"], learners, options.set)
        found = kept.of(f"{name}, {' '.join([*settings, *folds[fold]])}, seed {seed}", train)["errors"]
        return {key: ErrorCounts(**counts) for key, counts in found.items()}

    rows = compared(variants, list(folds), seeds, errors_of)
    if options.json is not None:
        remarks = {"simulated": True, "learners": learners, "shared": shared, "seeds": seeds, "folds": folds}
        save_figures(options.json, figures_of(rows), rows, made_with, **remarks)


def trained(settings: Sequence[str], learners: int, name: str) -> dict[str, Any]:
    """Word errors by utterance of the run of some settings, and how long it took."""
    started = time.perf_counter()
    run = SimulatedRun(compose("train", settings), learners, name)
    found = run.errors(run.train())
    return {"errors": {key: asdict(counts) for key, counts in found.items()}, "seconds": time.perf_counter() - started}


if __name__ == "__main__":
    run_main(main)
