"""What the continuous momentum of asynchronous gossip brings on rings of many learners. Simulated.

    python scripts/bench/continuous_momentum.py --data data/fsdd --json docs/results/continuous-momentum.json

A small network (tanh, spoken digits, classified from eight means of their features) is trained by simulated learners that take
units of their own pace from a pool (distributed/simulate/), each with SGD at a constant learning rate. Learners on a ring
with the momentum and without, at as many exchanges, are compared with a ring drawn anew in every round. Consensus distance is the
mean over the second half of the run's rounds of all learners, test error that of the mean model at its end.
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import torch

from distributed.gossip.continuous_momentum import flow_of
from distributed.gossip.topology import TopologyName, make_topology
from distributed.simulate.asynchronous import GossipLearning
from distributed.simulate.events import Events, FixedLink
from distributed.simulate.flat_model import FlatModel
from distributed.simulate.learners import Copies
from distributed.simulate.pace import LogNormal
from scripts.bench.report import save_figures
from scripts.bench.spoken_digits import (
    Digits,
    criterion,
    error_of,
    network,
    parser_of,
    read_arguments,
    read_digits,
    weights_of,
)
from scripts.composition.environment import environment
from scripts.composition.startup import run_main

BATCH, LR, STEPS = 16, 0.05, 200  # steps: of each learner, on average
SPREAD = 0.2  # of the logarithm of a unit's time
EXCHANGE = 0.1  # of a unit's time
WAYS: Mapping[str, tuple[TopologyName, bool]] = {
    "ring": ("ring", False),
    "ring, momentum": ("ring", True),
    "random ring": ("random_ring", False),
}
LEARNERS = (8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Found:
    """What one run has shown."""

    distance: float
    error: float
    exchanges: int


def main(arguments: list[str]) -> None:
    """Train everything, print a table in Markdown, save the figures."""
    options = read_arguments(parser_of(__doc__, "eight learners, ten steps, one seed"), arguments)
    made_with = environment()
    digits = read_digits(options.data, options.cache)
    sizes, steps = ((8,), 10) if options.quick else (LEARNERS, STEPS)
    print("| learners | way | consensus distance by seed | mean | test error | exchanges |\n|---|---|---|---|---|---|")
    rows = []
    for learners, way in product(sizes, WAYS):
        rows.append(row_of(learners, way, [trained(learners, way, steps, digits, seed) for seed in options.seeds]))
        print(written(rows[-1]), flush=True)
    if options.json is not None:
        figures = {f"consensus_distance/{row['learners']}/{row['way']}": row["distance"] for row in rows}
        save_figures(
            options.json, figures, rows, made_with, lr=LR, batch=BATCH, steps=steps, weights=weights_of(digits)
        )


def row_of(learners: int, way: str, found: Sequence[Found]) -> dict[str, Any]:
    """The row of all seeds."""
    return {
        "learners": learners,
        "way": way,
        "distances": [each.distance for each in found],
        "distance": statistics.fmean(each.distance for each in found),
        "error": statistics.fmean(each.error for each in found),
        "exchanges": statistics.fmean(each.exchanges for each in found),
    }


def written(row: Mapping[str, Any]) -> str:
    """The row in Markdown."""
    each = ", ".join(f"{value:.3g}" for value in row["distances"])
    return f"| {row['learners']} | {row['way']} | {each} | {row['distance']:.3g} | {row['error']:.2%} | {row['exchanges']:.0f} |"


def trained(learners: int, way: str, steps: int, digits: Digits, seed: int) -> Found:
    """Train by one way; every run of a seed starts at the same weights and draws the same batches."""
    torch.manual_seed(seed)
    module = network(digits)
    model = FlatModel(module, criterion)
    inputs, labels = digits.train
    units = learners * steps
    drawn = torch.randint(len(labels), (units, BATCH))
    copies = Copies(model.start_P, learners, lambda parameters: torch.optim.SGD(parameters, LR))
    name, with_momentum = WAYS[way]
    topology = make_topology(name, seed)
    distances: list[float] = []

    def watch(unit: int) -> None:
        if unit >= units // 2 and unit % learners == 0:
            distances.append(copies.consensus_distance)

    learning = GossipLearning(
        loss=model.loss,
        copies=copies,
        batch_of=lambda unit: (inputs[drawn[unit]], labels[drawn[unit]]),
        flow=flow_of(topology, learners, 1.0) if with_momentum else None,
        watch=watch,
    )
    events = Events(
        learners=learners,
        pace=LogNormal(1.0, SPREAD, seed=seed),
        link=FixedLink(EXCHANGE),
        topology=topology,
        rounds_per_step=1.0,
        max_staleness=16,
        learning=learning,
    )
    events.run(range(units))
    learning.fold()
    error = error_of(module, model, copies.mean, digits)
    return Found(statistics.fmean(distances), error, events.exchanges)


if __name__ == "__main__":
    run_main(main)
