"""Exchanges between neighbours: sizes that change, a neighbour that is gone, an end with messages in flight."""

import pytest
import torch
from torch import nn

from distributed.gossip.neighbours import NeighbourExchange
from distributed.learners.world import World
from distributed.schemes.dpsgd import DecentralisedSgd
from tests.schemes import SCHEMES


def gossip(world: World) -> DecentralisedSgd:
    """DPSGD on a ring."""
    return SCHEMES["dpsgd"].build(world)


def test_messages_may_change_their_size_between_rounds(run_learners):
    def learner(world: World) -> None:
        others = [j for j in range(3) if j != world.rank]
        exchange = NeighbourExchange(group=world.new_group("test", range(3)), learners=range(3), world=world)
        world.traffic.take()
        for size in (5, 5, 2, 7):
            message = [torch.full((size,), float(world.rank)), torch.full((1,), size, dtype=torch.float64)]
            exchange.start(message, others, others)
            for sender, (values, sizes) in exchange.wait().items():
                assert values.tolist() == [sender] * size
                assert sizes.tolist() == [size]
        assert world.traffic.bytes_sent == world.traffic.bytes_received == 2 * (19 * 4 + 4 * 8)

    run_learners(3, learner)


def test_a_neighbour_that_is_gone_is_named(run_learners):
    def exchange_with_1(exchange: NeighbourExchange) -> None:
        exchange.start([torch.zeros(2)], [1], [1])  # fails here or in wait, as the closing is noticed
        exchange.wait()

    def step(world: World) -> None:
        backend = gossip(world)
        model = nn.Linear(2, 1)
        backend.attach(torch.optim.SGD(backend.wrap(model).parameters(), lr=0.1))
        assert backend.exchange.group.size() == 2
        world.barrier()  # both are connected now
        if world.rank == 1:
            backend.close()
        world.barrier()
        if world.rank == 1:
            return
        with pytest.raises(RuntimeError, match="exchange of weights with learner 1 failed"):
            exchange_with_1(backend.exchange)
        backend.close()

    run_learners(2, step)


def test_closing_with_an_exchange_in_flight_does_not_hang(run_learners):
    def step(world: World) -> None:
        backend = gossip(world)
        backend.wrap(nn.Linear(2, 1))
        exchange = backend.exchange
        if world.rank == 0:
            exchange.start([torch.zeros(2)], [1], [1])  # learner 1 never answers
        del exchange
        backend.close()
        backend.close()

    run_learners(2, step)
