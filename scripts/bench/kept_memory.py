"""Time and memory of training on units of many shapes: memory that is freed kept or given back, kernels bounded or not.

    python scripts/bench/kept_memory.py --json docs/results/kept-memory.json [--quick]

    given back        glibc and oneDNN as they are
    kept              memory that is freed stays with the process (asr/training/allocator.py)
    kept, bounded     and few compiled kernels do (distributed/learners/environment.py): how learners train

A unit holds as many utterances as fit into 80 s with their padding, the longest of 2 to 10 s; units are all different, or (``--shapes``)
so many that recur, as in a small corpus. Each way has processes of its own, one after the other in turns, of one thread: medians of the
processor time of all steps after the first four, and of the largest resident memory.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import torch

from asr.data.batch import Batch
from asr.training.allocator import keep_freed_memory
from asr.training.precision import choose_matmul, flush_denormals
from distributed.errors import UsageError
from distributed.learners.environment import KERNELS, with_variables
from scripts.bench.report import save_figures
from scripts.bench.throughput import Case, batch_of, ours, step, timed
from scripts.composition.compose import compose
from scripts.composition.environment import environment
from scripts.composition.startup import run_main

GIVEN_BACK, KEPT, BOUNDED = "given back", "kept", "kept, bounded"
WAYS = (GIVEN_BACK, KEPT, BOUNDED)
AS_IT_IS = 1024  # kernels: oneDNN's own number
FIRST = 4  # steps that are not measured
SECONDS_PER_UNIT = 80


def main(arguments: list[str]) -> None:
    """Print a table in Markdown and save the figures; in a process of one way, train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--models", nargs="+", default=["conformer_s"], help="of conf/model")
    parser.add_argument("--units", type=int, default=40, help="steps of each process")
    parser.add_argument("--shapes", type=int, help="of units, which recur; left out: all are different")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each way")
    parser.add_argument(
        "--way", choices=WAYS, help="train in this process, the first model alone, and print what came of it"
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model, few units, one round")
    options = parser.parse_args(arguments)
    if options.quick:
        options.models, options.units, options.rounds = ["conformer_tiny"], FIRST + 2, 1
    if options.way:
        print(json.dumps(trained(options.models[0], options.units, options.shapes, options.way)))
        return
    made_with = environment()
    print("| model | way | seconds | over given back | memory, MiB | over given back |\n|---|---|---|---|---|---|")
    rows = [row for model in options.models for row in measured(model, options.units, options.shapes, options.rounds)]
    if options.json is not None:
        figures = {
            f"{key}/{row['model']}/{row['way']}": row[key] for row in rows for key in ("step_ratio", "memory_ratio")
        }
        save_figures(
            options.json, figures, rows, made_with, units=options.units, shapes=options.shapes, rounds=options.rounds
        )


def measured(model: str, units: int, shapes: int | None, rounds: int) -> list[dict[str, Any]]:
    """One row for each way."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            found[way].append(in_a_process_of_its_own(model, units, shapes, way))
    medians = {
        way: {key: statistics.median(each[key] for each in found[way]) for key in ("seconds", "peak_bytes")}
        for way in WAYS
    }
    rows = []
    for way, own in medians.items():
        ratios = [own[key] / medians[GIVEN_BACK][key] for key in ("seconds", "peak_bytes")]
        rows.append(
            {"model": model, "way": way, **own, "step_ratio": ratios[0], "memory_ratio": ratios[1], "all": found[way]}
        )
        print(
            f"| `{model}` | {way} | {own['seconds']:.1f} | {ratios[0]:.3f} | {own['peak_bytes'] / 2**20:,.0f} | {ratios[1]:.2f} |",
            flush=True,
        )
    return rows


def in_a_process_of_its_own(model: str, units: int, shapes: int | None, way: str) -> dict[str, float]:
    """What ``trained`` finds."""
    kernels = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": str(KERNELS if way == BOUNDED else AS_IT_IS)}
    command = [sys.executable, __file__, "--models", model, "--units", str(units), "--way", way]
    command += [] if shapes is None else ["--shapes", str(shapes)]
    done = subprocess.run(command, env=with_variables(kernels), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UsageError(f"{way}: the process that trained ended with exit code {done.returncode}; see its lines above")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def trained(model: str, units: int, shapes: int | None, way: str) -> dict[str, float]:
    """Processor time in seconds of all steps but the first, and the largest resident memory in bytes."""
    if way != GIVEN_BACK:
        keep_freed_memory()
    flush_denormals()
    torch.set_num_threads(1)
    choose_matmul("auto")
    network = ours(compose("train", [f"model={model}", "model.ctc_weight=0"]), Case(model, "even", 8, 10.0, 40, 500))
    made = unequal(model, shapes or units)
    recurring = made if shapes is None else islice(cycle(made), units)
    seconds = [timed(partial(step, network, unit)) for unit in recurring]
    return {
        "seconds": sum(seconds[FIRST:]),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def unequal(model: str, units: int) -> Iterator[Batch]:
    """Units of about the same duration, as a batch plan makes them, of other shapes each."""
    rng = torch.Generator().manual_seed(3)
    for seconds in (2 + 8 * torch.rand(units, generator=rng)).tolist():
        yield batch_of(Case(model, "ragged", max(1, int(SECONDS_PER_UNIT / seconds)), seconds, round(4 * seconds), 500))


if __name__ == "__main__":
    run_main(main)
