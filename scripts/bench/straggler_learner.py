"""One learner of scripts/bench/straggler.py: epochs under each scheme, with emulated or with real computation."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distributed.base import FlatBackend
from distributed.gossip.topology import TopologyName
from distributed.learners.world import World
from scripts.composition.backends import build_backend

ASYNCHRONOUS: dict[str, TopologyName] = {"adpsgd-ring": "ring", "adpsgd-random_ring": "random_ring"}
WARM_UP_UNITS = 5  # per learner, before the clock: connections, caches and buckets as in later steps
LAYERS, BATCH = 3, 256  # layers and batch size of the perceptron


@dataclass(frozen=True, slots=True)
class Case:
    """The settings of one epoch under one scheme, the same for every learner."""

    repetition: int
    scheme: str
    slowdown: float  # factor by which learner 0 is slower
    units: int  # total over all learners
    unit_seconds: float

    @property
    def pool(self) -> str:
        """The name under which units are claimed, of this epoch alone."""
        return f"{self.repetition}-{self.scheme}-{self.slowdown}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One learner's epoch: its number of units, and begin and end by the host's clock in seconds."""

    units: int
    began: float
    ended: float


class Emulated(nn.Module):
    """A model whose gradient costs next to nothing, after a sleep as long as the unit's computation."""

    def __init__(self, parameters: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(parameters))

    def forward(self, seconds: float) -> Tensor:
        """Scalar loss."""
        time.sleep(seconds)
        return self.weight.sum()


class Computing(nn.Module):
    """A perceptron on random inputs, whose cost is that of matrix products."""

    def __init__(self, parameters: int) -> None:
        super().__init__()
        width = max(1, round((parameters / LAYERS) ** 0.5))
        layers = [layer for _ in range(LAYERS) for layer in (nn.Linear(width, width, bias=False), nn.ReLU())]
        self.layers = nn.Sequential(*layers)
        self.register_buffer("x", torch.randn(BATCH, width))

    def forward(self, weight: float) -> Tensor:
        """Scalar loss of one pass."""
        loss: Tensor = self.layers(self.x).square().mean() * weight
        return loss


def build(scheme: str, world: World) -> FlatBackend:
    """The backend of that name."""
    gossip = {"topology": ASYNCHRONOUS[scheme]} if scheme in ASYNCHRONOUS else {}
    backend: FlatBackend = build_backend("adpsgd" if gossip else scheme, world, **gossip)
    return backend


def run_emulated(world: World, parameters: int, cases: Sequence[Case]) -> list[Outcome]:
    """One learner's part of every epoch, computation emulated by sleeping: a slow learner sleeps longer."""
    return [
        run_epoch(world, Emulated(parameters), case, [case.unit_seconds], [case.unit_seconds * slowness(world, case)])
        for case in cases
    ]


def run_real(world: World, parameters: int, cases: Sequence[Case]) -> list[Outcome]:
    """One learner's part of every epoch, with real computation: a slow learner makes more passes per unit."""
    passes = _passes_of_a_unit(world, Computing(parameters), cases[0].unit_seconds)
    return [
        run_epoch(world, Computing(parameters), case, [1.0] * passes, [1.0] * round(passes * slowness(world, case)))
        for case in cases
    ]


def slowness(world: World, case: Case) -> float:
    """The factor by which this learner is slower than usual on a unit."""
    return case.slowdown if world.rank == 0 else 1.0


def run_epoch(world: World, model: nn.Module, case: Case, usual: Sequence[float], own: Sequence[float]) -> Outcome:
    """One learner's part of an epoch: each unit passes ``own`` to the model, the warm-up before the clock ``usual``."""
    backend = build(case.scheme, world)
    wrapped = backend.wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    backend.attach(optimizer)
    backend.synchronise(False, lambda: wrapped(usual[0]).backward())
    for _ in range(WARM_UP_UNITS):
        run_unit(backend, wrapped, optimizer, usual)
    backend.drain()
    world.barrier()
    began, units = time.monotonic(), 0
    while _more(world, case, backend.lockstep, units):
        run_unit(backend, wrapped, optimizer, own)
        units += 1
    ended = time.monotonic()
    backend.drain()
    backend.close()
    return Outcome(units, began, ended)


def run_unit(
    backend: FlatBackend, wrapped: nn.Module, optimizer: torch.optim.Optimizer, work: Sequence[object]
) -> None:
    """Take a step of one unit, whose passes accumulate gradients."""
    divisor = backend.begin_step(1.0, 1.0)
    for each in work[:-1]:
        with backend.accumulating():
            (wrapped(each) / divisor).backward()
    (wrapped(work[-1]) / divisor).backward()
    report = backend.reduce_gradients(None)
    with backend.updating(apply=report.finite):
        optimizer.step()
    backend.zero_grad()


def _more(world: World, case: Case, lockstep: bool, done: int) -> bool:
    return done < case.units // world.size if lockstep else world.claim(case.pool, 1) < case.units


def _passes_of_a_unit(world: World, model: nn.Module, unit_seconds: float) -> int:
    """The number of passes that fill a unit while all learners compute."""
    seconds = statistics.median(_seconds_of(lambda: model(1.0).backward()) for _ in range(50))
    passes = world.average(torch.tensor([unit_seconds / seconds]))
    return max(1, round(passes.item()))


def _seconds_of(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
