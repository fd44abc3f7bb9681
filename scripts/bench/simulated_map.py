"""Word error rates of a recipe by batch and learning rate under synchronous SGD, LAMB and gossip: a heat map, with simulated learners.

    python scripts/bench/simulated_map.py --kept exp/map.jsonl --json docs/results/transducer-map.json --figure docs/images/transducer-map.svg \\
        --override experiment=fsdd_connected --override hooks=[] --override trainer.epochs=8

Learners train as scripts/bench/simulated_training.py says, from one seed, each its part of every batch. Synchronous schemes come to the same whatever
the number of learners, and are trained with the fewest alone. Runs that ``--kept`` holds are not made again.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import torch
from matplotlib.figure import Figure

from asr.decoding.wer import ErrorCounts
from asr.training.precision import flush_denormals
from distributed.errors import UsageError
from scripts.bench.kept import Kept
from scripts.bench.paired import total
from scripts.bench.report import save_figures
from scripts.bench.simulated_parity import trained
from scripts.composition.environment import environment
from scripts.composition.startup import run_main

LEARNERS, BATCHES = (4, 16), (64, 256)
SGD_RATES, LAMB_RATES = (0.03, 0.06, 0.12, 0.24), (0.003, 0.006, 0.012, 0.024)
SGD = "optimizer=sgd"
SCHEMES = {  # by name: settings, learning rates, whether the number of learners matters
    "SSGD": ((SGD, "backend=allreduce"), SGD_RATES, False),
    "SSGD with LAMB": (("optimizer=lamb", "optimizer.weight_decay=0", "backend=allreduce"), LAMB_RATES, False),
    "DPSGD, complete": ((SGD, "backend=dpsgd", "backend.topology=complete"), SGD_RATES, True),
    "DPSGD, ring": ((SGD, "backend=dpsgd", "backend.topology=ring"), SGD_RATES, True),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One run."""

    scheme: str
    learners: int
    batch: int
    lr: float

    @property
    def settings(self) -> list[str]:
        """What differs from the recipe."""
        share = [f"batch.units={self.learners}", f"batch.unit_utterances={self.batch // self.learners}"]
        return [*SCHEMES[self.scheme][0], *share, f"optimizer.lr={self.lr:g}"]

    @property
    def row(self) -> str:
        """The name of its row of the heat map."""
        return f"{self.scheme}, {self.learners} learners" if SCHEMES[self.scheme][2] else self.scheme


def main(arguments: list[str]) -> None:
    """Train all cells, print a table in Markdown, draw, save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="utterances of a global batch")
    parser.add_argument("--set", default="test", help="what is evaluated")
    parser.add_argument("--override", action="append", default=[], help="a setting of all runs")
    parser.add_argument("--kept", type=Path, help="where runs are kept, so that the same command goes on")
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--figure", type=Path, help="where to draw the heat map")
    parser.add_argument("--quick", action="store_true", help="two steps of each")
    options = parser.parse_args(arguments)
    if wrong := [batch for batch in options.batches if any(batch % learners for learners in LEARNERS)]:
        raise UsageError(f"--batches {wrong[0]}: learners share a batch evenly; give multiples of {max(LEARNERS)}")
    made_with = environment()
    flush_denormals()
    torch.set_num_threads(1)
    shared = [*options.override, f"seed={options.seed}", *(["trainer.max_steps=2"] if options.quick else [])]
    kept = Kept(options.kept, {"shared": shared, "set": options.set})
    rows: list[dict[str, Any]] = []
    for cell in cells(options.batches):
        name = f"{cell.row}, batch {cell.batch}, rate {cell.lr:g}"
        train = partial(trained, [*shared, *cell.settings], cell.learners, options.set)
        errors = kept.of(name, train)["errors"]
        rate = total({key: ErrorCounts(**counts) for key, counts in errors.items()}).wer
        print(f"{name}: {rate:.2%}", flush=True)
        rows.append({"row": cell.row, "batch": cell.batch, "lr": cell.lr, "word_error_rate": rate})
    print(table(rows, options.batches))
    if options.figure is not None:
        draw(options.figure, rows, options.batches)
    if options.json is not None:
        figures = {f"wer/{row['row']}/{row['batch']}/{row['lr']:g}": row["word_error_rate"] for row in rows}
        save_figures(options.json, figures, rows, made_with, simulated=True, shared=shared)


def cells(batches: Sequence[int]) -> Iterator[Cell]:
    """All runs."""
    for batch in batches:
        for scheme, (_, rates, by_learners) in SCHEMES.items():
            for learners in LEARNERS if by_learners else LEARNERS[:1]:
                for lr in rates:
                    yield Cell(scheme, learners, batch, lr)


def by_row(rows: Sequence[dict[str, Any]], batch: int) -> dict[str, list[dict[str, Any]]]:
    """The cells of a batch, by row, in the order of their rates."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["batch"] == batch:
            found.setdefault(row["row"], []).append(row)
    return found


def table(rows: Sequence[dict[str, Any]], batches: Sequence[int]) -> str:
    """Word error rates in Markdown, a line for each scheme and batch."""
    lines = ["| batch | scheme | rates | word error rates |", "|---|---|---|---|"]
    for batch in batches:
        for name, found in by_row(rows, batch).items():
            rates = ", ".join(f"{row['lr']:g}" for row in found)
            errors = ", ".join(f"{row['word_error_rate']:.1%}" for row in found)
            lines.append(f"| {batch} | {name} | {rates} | {errors} |")
    return "\n".join(lines)


def draw(path: Path, rows: Sequence[dict[str, Any]], batches: Sequence[int]) -> None:
    """A heat map for each batch: schemes by rates, which double from cell to cell, with the word error rate in each."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
    for axes, batch in zip(panels, batches, strict=True):
        found = by_row(rows, batch)
        errors = [[100 * min(1.0, cell["word_error_rate"]) for cell in own] for own in found.values()]
        image = axes.imshow(errors, cmap="viridis_r", vmin=0, vmax=100, aspect="auto")
        for y, own in enumerate(found.values()):
            for x, cell in enumerate(own):
                label = f"{cell['lr']:g}: {100 * cell['word_error_rate']:.1f} %"
                axes.text(
                    x, y, label, ha="center", va="center", fontsize=8, color="white" if errors[y][x] > 50 else "black"
                )
        axes.set_title(f"batches of {batch}")
        axes.set_xticks([])
        axes.set_xlabel("learning rate, doubled from left to right")
        axes.set_yticks(range(len(found)), list(found))
    figure.colorbar(image, ax=panels, label="word error rate, %")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    run_main(main)
