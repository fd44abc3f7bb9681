"""Memory and time of a training step whose layers are computed again in backward: hook ``activation_checkpointing``.

    python scripts/bench/activation_checkpointing.py --json docs/results/activation-checkpointing.json [--quick]

Batches and models of scripts/bench/throughput.py. Steps take turns in one process of one thread; times are medians of its
processor time. Memory is the rise of the resident memory of a forked process at the peak of one step, gradients included.
"""

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import torch

from asr.hooks.activation_checkpointing import ActivationCheckpointing
from asr.training.precision import choose_matmul, flush_denormals
from scripts.bench.memory import peak_extra_bytes
from scripts.bench.report import save_figures
from scripts.bench.throughput import Case, batch_of, ours, step, timed
from scripts.composition.compose import compose
from scripts.composition.environment import environment
from scripts.composition.startup import run_main

WAYS = {"none": None, "every second layer": 2, "every layer": 1}


def main(arguments: list[str]) -> None:
    """Print a table in Markdown, row by row, and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument(
        "--models", nargs="+", default=["conformer_s", "conformer_m", "lstm_tiny"], help="of conf/model"
    )
    parser.add_argument("--rounds", type=int, default=5, help="measured steps of each")
    parser.add_argument("--quick", action="store_true", help="short utterances of a tiny model, one round")
    options = parser.parse_args(arguments)
    made_with = environment()
    flush_denormals()
    torch.set_num_threads(1)
    print(choose_matmul("auto"))
    cases = [Case(model, "even", 8, 10.0, 40, 500) for model in options.models]
    if options.quick:
        cases, options.rounds = [Case("conformer_tiny", "even", 4, 8.0, 5, 29)], 1
    print("| model | computed again | step, s | over none | peak memory, MiB | over none |\n|---|---|---|---|---|---|")
    rows = [row for case in cases for row in measure(case, options.rounds)]
    if options.json is not None:
        figures = {
            f"{key}/{row['model']}/{row['way']}": row[key] for row in rows for key in ("step_ratio", "memory_ratio")
        }
        save_figures(options.json, figures, rows, made_with, rounds=options.rounds)


def measure(case: Case, rounds: int) -> list[dict[str, Any]]:
    """One row for each way."""
    batch, config = batch_of(case), compose("train", [f"model={case.model}", "model.ctc_weight=0"])
    models = {way: ours(config, case) for way in WAYS}
    for way, every in WAYS.items():
        if every is not None:
            ActivationCheckpointing(every=every).on_model(models[way])
    small = batch_of(Case(case.model, "even", 1, 1.0, 4, case.classes))
    peaks = {
        way: peak_extra_bytes(partial(step, model, batch), partial(step, model, small)) for way, model in models.items()
    }
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        for way, model in models.items():
            taken = timed(partial(step, model, batch))
            if number:  # kernels are compiled in the first
                seconds[way].append(taken)
    rows = []
    for way in WAYS:
        took, whole = statistics.median(seconds[way]), statistics.median(seconds["none"])
        rows.append(
            {"model": case.model, "way": way, "seconds": took, "all_seconds": seconds[way], "peak_bytes": peaks[way]}
            | {"step_ratio": took / whole, "memory_ratio": peaks[way] / peaks["none"]}
        )
        print(
            f"| `{case.model}` | {way} | {took:.2f} | {took / whole:.2f} | {peaks[way] / 2**20:,.0f} | "
            f"{peaks[way] / peaks['none']:.2f} |",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    run_main(main)
