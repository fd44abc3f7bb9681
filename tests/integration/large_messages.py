"""A learner that does nothing but exchange large messages, until another one is lost: what test_lost_learners kills.

large_messages.py KIND
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from distributed.gossip.mixing import mixed_in
from distributed.gossip.neighbours import NeighbourExchange
from distributed.learners.environment import place
from distributed.learners.launch import leave, start
from distributed.learners.signs import LearnerLostError
from distributed.learners.world import World
from distributed.schemes.adpsgd import AsynchronousGossip
from tests.schemes import SCHEMES

ELEMENTS = 20_000_000  # a message takes some 50 ms, so that most kills come in the middle of one


def neighbours(world: World) -> Callable[[], object]:
    exchange = NeighbourExchange(group=world.new_group("large", range(2)), learners=range(2), world=world)
    message, other = [torch.ones(ELEMENTS)], [1 - world.rank]

    def once() -> None:
        exchange.start(message, other, other)
        exchange.wait()

    return once


def arriving(world: World) -> Callable[[], object]:
    exchange = NeighbourExchange(group=world.new_group("large", range(2)), learners=range(2), world=world)
    message, other = [torch.ones(ELEMENTS)], [1 - world.rank]

    def once() -> None:
        exchange.start(message, other, other)
        mixed_in(message, exchange.received, {other[0]: 0.5}, exchange.arriving())

    return once


def connecting(world: World) -> Callable[[], object]:
    """Not large: groups that connect partners alone, one after the other, with the one before still there."""
    return lambda: world.new_group("many", range(2), partners=[1 - world.rank])


def gather(world: World) -> Callable[[], object]:
    own, whole = torch.ones(ELEMENTS), torch.empty(2 * ELEMENTS)
    return lambda: world.wait(world.joined._allgather_base(whole, own), own.device)


def allreduce(world: World) -> Callable[[], object]:
    tensor = torch.zeros(ELEMENTS)
    return lambda: world.all_reduce_sum(tensor)


def broadcast(world: World) -> Callable[[], object]:
    tensor = torch.ones(ELEMENTS)
    return lambda: world.broadcast(tensor, source=1)


def adpsgd(world: World) -> Callable[[], object]:
    backend = SCHEMES["adpsgd"].build(world)
    assert isinstance(backend, AsynchronousGossip)
    model = nn.Linear(4_000, ELEMENTS // 4_000, bias=False)
    backend.attach(torch.optim.SGD(backend.wrap(model).parameters(), lr=0.0))
    backend.synchronise(resumed=False)

    def step() -> None:
        backend.begin_step(1.0, 1.0)
        with backend.updating(apply=False):
            pass

    return step


KINDS: dict[str, Callable[[World], Callable[[], object]]] = {
    each.__name__: each for each in (neighbours, arriving, connecting, gather, allreduce, broadcast, adpsgd)
}


def main(kind: str) -> None:
    """Exchange until the others end; the last line printed says what ended it."""
    world = start(place(), join_seconds=60, timeout_seconds=120, patience_seconds=5, device="cpu", threads=1)
    try:
        with world.naming_the_lost():
            exchange = KINDS[kind](world)
            for number in range(100_000):
                exchange()
                if number == 1:
                    Path(f"under-way-{world.rank}").touch()
    except LearnerLostError as lost:
        print(lost, flush=True)
        leave(2)


if __name__ == "__main__":
    main(sys.argv[1])
