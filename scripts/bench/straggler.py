"""One slow learner among several: how long an epoch takes under each scheme, over the time when none is slow.

    python scripts/bench/straggler.py --json docs/results/straggler.json

Computation is emulated by sleeping, so that four learners fit on two cores; communication, mixing and the hand-out of
units are the real ones. An epoch is a fixed number of units. Schemes in lockstep give each learner one unit per step,
asynchronous ones let each claim its next. The tail is the time from the first learner's end to the last's.
"""

import argparse
import itertools
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from distributed.allreduce import AllReduce
from distributed.async_gossip import AsynchronousGossip
from distributed.base import FlatBackend
from distributed.delay_by_one import DelayByOne
from distributed.launch import World
from distributed.topology import TopologyName
from scripts.bench.learners import run_learners
from scripts.bench.report import save_figures
from scripts.startup import run_main

LEARNERS = 4
ASYNCHRONOUS: dict[str, TopologyName] = {"adpsgd-ring": "ring", "adpsgd-random_ring": "random_ring"}
SCHEMES = ("allreduce", "delay_by_one", *ASYNCHRONOUS)


@dataclass(frozen=True, slots=True)
class Epoch:
    """What each learner does."""

    scheme: str
    units: int  # of all learners together
    unit_seconds: float
    slowdown: float  # of learner 0
    parameters: int
    name: str  # of the claims


@dataclass(frozen=True, slots=True)
class Outcome:
    """One learner's epoch."""

    units: int
    began: float  # by the host's clock
    ended: float


def build(scheme: str, world: World) -> FlatBackend:
    """The backend of that name."""
    if scheme == "allreduce":
        return AllReduce(bucket_mb=25.0, world=world)
    if scheme == "delay_by_one":
        return DelayByOne(mix_moments=False, world=world)
    return AsynchronousGossip(topology=ASYNCHRONOUS[scheme], rounds_per_step=1.0, max_staleness=16, seed=1, world=world)


class Emulated(nn.Module):
    """Parameters whose gradient costs next to nothing, after a nap."""

    def __init__(self, parameters: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(parameters))

    def forward(self, seconds: float) -> torch.Tensor:
        """Scalar loss."""
        time.sleep(seconds)
        return self.weight.sum()


def run_epoch(world: World, epoch: Epoch) -> Outcome:
    """One learner's part of an epoch."""
    model = Emulated(epoch.parameters)
    backend = build(epoch.scheme, world)
    wrapped = backend.wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    backend.attach(optimizer)
    seconds = epoch.unit_seconds * (epoch.slowdown if world.rank == 0 else 1.0)
    backend.synchronise(False, lambda: wrapped(0.0).backward())
    world.barrier()
    began, units = time.time(), 0
    while _more(world, epoch, backend.lockstep, units):
        divisor = backend.begin_step(1.0)
        (wrapped(seconds) / divisor).backward()
        report = backend.reduce_gradients(None)
        with backend.updating(apply=report.finite):
            optimizer.step()
        backend.zero_grad()
        units += 1
    ended = time.time()
    backend.drain()
    backend.close()
    return Outcome(units, began, ended)


def _more(world: World, epoch: Epoch, lockstep: bool, done: int) -> bool:
    return done < epoch.units // world.size if lockstep else world.claim(epoch.name, 1) < epoch.units


def measure(scheme: str, slowdown: float, options: argparse.Namespace, name: str) -> dict[str, float]:
    """Seconds of an epoch, its tail, and the pace of the learners that are not slow."""
    epoch = Epoch(scheme, options.units, options.unit_ms / 1000, slowdown, options.parameters, name)
    outcomes: list[Outcome] = run_learners(LEARNERS, run_epoch, epoch)
    began, first, last = (
        min(each.began for each in outcomes),
        min(each.ended for each in outcomes),
        max(each.ended for each in outcomes),
    )
    healthy = [each.units / (each.ended - began) for each in outcomes[1:]]
    return {
        "seconds": last - began,
        "tail_seconds": last - first,
        "healthy_units_per_second": statistics.mean(healthy),
        "slow_units": outcomes[0].units,
    }


def main(arguments: list[str]) -> None:
    """Measure all schemes in turn, several times, and report ratios of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--quick", action="store_true", help="fewer units and one repetition: under a minute")
    parser.add_argument("--units", type=int, default=1600, help="of an epoch, all learners together")
    parser.add_argument("--unit-ms", type=float, default=20.0, help="emulated computation of a unit")
    parser.add_argument("--parameters", type=int, default=1_000_000, help="float32 weights that travel")
    parser.add_argument("--slowdowns", type=float, nargs="+", default=[5.0, 10.0], help="of one learner")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args(arguments)
    if options.quick:
        options.units, options.repetitions = 200, 1
    runs: dict[tuple[str, float], list[dict[str, float]]] = {}
    for repetition, slowdown, scheme in itertools.product(
        range(options.repetitions), [1.0, *options.slowdowns], SCHEMES
    ):
        name = f"{repetition}-{slowdown}-{scheme}"
        runs.setdefault((scheme, slowdown), []).append(measure(scheme, slowdown, options, name))
    rows, figures = summarise(runs)
    print("| scheme | slowdown | epoch s | over none | tail s | healthy learners' speed | units of the slow one |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['scheme']} | {row['slowdown']:g}x | {row['seconds']:.2f} | {row['epoch_ratio']:.2f} | "
            f"{row['tail_seconds']:.2f} | {row['healthy_speed']:.2f} | {row['slow_units']:.0f} |"
        )
    if options.json:
        save_figures(options.json, figures, rows)


def summarise(
    runs: dict[tuple[str, float], list[dict[str, float]]],
) -> tuple[list[dict[str, str | float]], dict[str, float]]:
    """Medians over repetitions, and ratios over the same scheme with no slow learner."""
    medians = {
        case: {key: statistics.median(each[key] for each in repeated) for key in repeated[0]}
        for case, repeated in runs.items()
    }
    rows: list[dict[str, str | float]] = []
    figures: dict[str, float] = {}
    for (scheme, slowdown), each in medians.items():
        none = medians[scheme, 1.0]
        ratio = each["seconds"] / none["seconds"]
        healthy = each["healthy_units_per_second"] / none["healthy_units_per_second"]
        rows.append({"scheme": scheme, "slowdown": slowdown, "epoch_ratio": ratio, "healthy_speed": healthy, **each})
        if slowdown != 1.0:
            figures[f"epoch_ratio/{scheme}/{slowdown:g}x"] = ratio
            figures[f"healthy_speed/{scheme}/{slowdown:g}x"] = healthy
    return rows, figures


if __name__ == "__main__":
    run_main(main)
