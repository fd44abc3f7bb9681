"""Exchanges between neighbours: sizes that change, messages in pieces, a neighbour that is gone, an end with messages in flight."""

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from distributed.gossip import neighbours
from distributed.gossip.finite import NonFiniteWeightsError
from distributed.gossip.mixing import mixed_in, weighted_difference
from distributed.gossip.neighbours import NeighbourExchange, pieces
from distributed.gossip.packing import Message
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


def message_of(rank: int) -> Message:
    """Parts of two dtypes and one without entries."""
    generator = torch.Generator().manual_seed(rank)
    return [torch.randn(37, generator=generator), torch.zeros(0), torch.randn(11, generator=generator).double()]


def test_pieces_hold_every_entry_once_and_no_more_bytes_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "PIECE_BYTES", 40)
    message = [torch.zeros_like(part) for part in message_of(0)]
    for part, entries in pieces(message):
        assert 0 < message[part][entries].nbytes <= 40
        message[part][entries] += 1
    assert all(bool((part == 1).all()) for part in message)


def test_messages_mixed_in_pieces_are_bitwise_those_mixed_whole(run_learners, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbours, "PIECE_BYTES", 40)

    def learner(world: World) -> None:
        others = {j: 1 / 3 for j in range(3) if j != world.rank}
        exchange = NeighbourExchange(group=world.new_group("test", range(3)), learners=range(3), world=world)
        own = message_of(world.rank)
        exchange.start(own, others, others)
        found = mixed_in(own, exchange.received, others, exchange.arriving())
        assert found is not None
        for index, part in enumerate(found):
            whole = weighted_difference(own[index], [(1 / 3, message_of(j)[index]) for j in others])
            assert torch.equal(part, whole)

    run_learners(3, learner)


@pytest.mark.parametrize("word", ["dpsgd", "hierarchical"])
def test_schemes_train_bitwise_alike_in_pieces_and_whole(run_learners, monkeypatch: pytest.MonkeyPatch, word: str):
    def learner(world: World) -> list[float]:
        backend: Any = SCHEMES[word].build(world)
        model = nn.Linear(7, 5, bias=False)
        with torch.no_grad():  # learners are threads: of one global generator they would draw in any order
            model.weight.copy_(torch.randn(5, 7, generator=torch.Generator().manual_seed(world.rank)))
        optimizer = torch.optim.SGD(backend.wrap(model).parameters(), lr=0.01, momentum=0.9)
        backend.attach(optimizer)
        for _ in range(3):
            backend.begin_step(1.0, 1.0)
            model(torch.ones(2, 7)).square().sum().backward()
            with backend.updating(apply=backend.reduce_gradients(None).finite):
                optimizer.step()
            optimizer.zero_grad()
        backend.drain()
        backend.close()
        return model.weight.flatten().tolist()

    whole = run_learners(4, learner)
    monkeypatch.setattr(neighbours, "PIECE_BYTES", 16)
    assert run_learners(4, learner) == whole
    assert whole[0] != whole[2]


def test_who_sends_a_last_piece_that_is_not_finite_is_named(run_learners, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbours, "PIECE_BYTES", 40)

    def learner(world: World) -> None:
        exchange = NeighbourExchange(group=world.new_group("test", range(2)), learners=range(2), world=world)
        own, other = message_of(world.rank), 1 - world.rank
        if world.rank == 1:
            own[2][-1] = torch.nan
        exchange.start(own, [other], [other])
        if world.rank == 1:
            exchange.wait()
            return
        arriving = exchange.arriving()
        assert len(list(itertools.islice(arriving, len(pieces(own)) - 1))) == len(pieces(own)) - 1
        with pytest.raises(NonFiniteWeightsError, match="learner 1 sent weights that are not finite"):
            next(arriving)

    run_learners(2, learner)


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
