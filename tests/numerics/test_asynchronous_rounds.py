"""Thousands of rounds of asynchronous gossip at random paces: nobody waits for ever, and the sum over learners is kept.

Learners are threads of this process, or processes that run this file. Everything that threads do is preceded by random
delays of microseconds to milliseconds. Each learner changes its own weights in every step, so that there is something
to mix until the end: the sum over learners must have moved by the sum of these changes, and by nothing else.
"""

import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import FileStore

from distributed.gossip.pending import PendingMixing
from distributed.gossip.topology import TopologyName
from distributed.learners.gloo import gloo_group
from distributed.learners.world import World
from tests.processes import Forked, end_all
from tests.schemes import SCHEMES

ELEMENTS = 100
ROUNDS = 10_000  # of each learner, in the long tests
TOPOLOGIES: tuple[TopologyName, ...] = ("ring", "random_ring", "random_pairwise")


def after_a_delay(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, called after nothing, microseconds or a few milliseconds."""

    def delayed(*arguments: Any) -> Any:
        if random.random() < 0.5:
            time.sleep(10 ** random.uniform(-6, -2.5))
        return method(*arguments)

    return delayed


def patience(rounds: int) -> float:
    """Seconds after which learners hang, on a machine with other things to do."""
    return 30 + 0.06 * rounds


def mix_and_drift(world: World, rounds: int, topology: TopologyName) -> tuple[Tensor, Tensor]:
    """A learner's weights after so many rounds of its own, and all that it has added to them itself."""
    generator = torch.Generator().manual_seed(world.rank)
    model = nn.Linear(ELEMENTS, 1, bias=False).double()
    backend = SCHEMES["adpsgd"].build(world, topology=topology)
    backend.wrap(model)
    backend.synchronise(resumed=True)  # each keeps its own weights
    weights = backend.flat.flat[0].detach()
    added = weights.clone()
    while backend.round < rounds:
        backend.begin_step(1.0, 1.0)
        if random.random() < 0.1:
            time.sleep(random.uniform(0, 0.001 * (1 + world.rank)))
        own = torch.randn(len(weights), generator=generator, dtype=torch.float64)
        with backend.updating(apply=True):
            weights += own
        added += own
    backend.drain()
    final = weights.clone()
    backend.close()
    return final, added


def check_sum(results: list[tuple[Tensor, Tensor]]) -> None:
    final, added = (torch.stack(tensors) for tensors in zip(*results, strict=True))
    torch.testing.assert_close(final.sum(0), added.sum(0), rtol=0, atol=1e-9)
    spread, unmixed = (tensor - tensor.mean(0) for tensor in (final, added))
    assert spread.norm() < 0.5 * unmixed.norm()  # they did mix


def in_threads(
    run_learners: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, size: int, rounds: int, topology: TopologyName
) -> None:
    for name in ("snapshot", "add"):
        monkeypatch.setattr(PendingMixing, name, after_a_delay(getattr(PendingMixing, name)))
    check_sum(run_learners(size, lambda world: mix_and_drift(world, rounds, topology), patience(rounds)))


def in_processes(folder: Path, size: int, rounds: int, topology: TopologyName) -> None:
    line = [__file__, str(folder)]
    learners = [
        Forked([*line, str(rank), str(size), str(rounds), topology], folder, GLOO_SOCKET_IFNAME="lo")
        for rank in range(size)
    ]
    try:
        deadline = time.monotonic() + patience(rounds)
        printed = [learner.communicate(deadline - time.monotonic())[0] for learner in learners]
    finally:
        end_all()
    assert not any(learner.returncode for learner in learners), printed
    check_sum([torch.load(folder / f"{rank}.pt") for rank in range(size)])


@pytest.mark.parametrize("size", [2, 3, 5])
def test_hundreds_of_rounds_in_threads(run_learners, monkeypatch: pytest.MonkeyPatch, size: int):
    in_threads(run_learners, monkeypatch, size, 200, "random_ring")


def test_hundreds_of_rounds_in_processes(tmp_path: Path):
    in_processes(tmp_path, 3, 300, "ring")


@pytest.mark.long
@pytest.mark.parametrize("size", range(2, 8))
def test_ten_thousand_rounds_in_threads(run_learners, monkeypatch: pytest.MonkeyPatch, size: int):
    in_threads(run_learners, monkeypatch, size, ROUNDS, "random_ring")


@pytest.mark.long
@pytest.mark.parametrize("size", range(2, 8))
def test_ten_thousand_rounds_in_processes(tmp_path: Path, size: int):
    in_processes(tmp_path, size, ROUNDS, TOPOLOGIES[size % len(TOPOLOGIES)])


def main(folder: str, rank: str, size: str, rounds: str, topology: TopologyName) -> None:
    """One learner that is a process: leaves its result in the folder."""
    torch.set_num_threads(1)
    for name in ("snapshot", "add"):
        setattr(PendingMixing, name, after_a_delay(getattr(PendingMixing, name)))
    store = FileStore(str(Path(folder) / "store"), int(size))
    group = gloo_group(store, int(rank), int(size), timeout_seconds=patience(int(rounds)))
    world = World(int(rank), int(size), int(rank), int(size), torch.device("cpu"), group)
    result = mix_and_drift(world, int(rounds), topology)
    torch.save(result, Path(folder) / f"{rank}.pt")
    world.barrier()  # nobody's connections end before everybody has what it needs


if __name__ == "__main__":
    main(*sys.argv[1:])
