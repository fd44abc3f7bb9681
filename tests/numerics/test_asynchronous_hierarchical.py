"""Asynchronous gossip between groups: members stay bitwise equal, sums are conserved, units are claimed together."""

import random
import time
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distributed.gossip.topology import TopologyName
from distributed.learners.world import World
from distributed.schemes.allreduce import AllReduce
from distributed.schemes.hierarchical_adpsgd import HierarchicalAsynchronousGossip
from tests.schemes import SCHEMES


def grouped(world: World, size: int, **changes: Any) -> HierarchicalAsynchronousGossip:
    backend = SCHEMES["hierarchical_adpsgd"].build(world, group_size=size, **changes)
    assert isinstance(backend, HierarchicalAsynchronousGossip)
    return backend


def unit(*numbers: int) -> Tensor:
    generator = torch.Generator().manual_seed(hash(numbers) % 2**31)
    return torch.randn(5, 7, generator=generator, dtype=torch.float64)


def trained(world: World, size: int, steps: int, lr: float, **changes: Any) -> Tensor:
    """The weights after ``steps`` of SGD, by groups of different speeds; each group starts at other weights."""
    backend = grouped(world, size, **changes)
    group = backend.groups.own
    model = nn.Linear(7, 3, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(start(group))
    wrapped = backend.wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    backend.attach(optimizer)
    backend.synchronise(resumed=True)  # each keeps its own weights
    pace = random.Random(group)
    for step in range(steps):
        backend.begin_step(1.0, 1.0)
        wrapped(unit(step, world.rank)).square().mean().backward()
        report = backend.reduce_gradients(None)
        time.sleep(pace.uniform(0, 0.002 * (1 + group)))
        with backend.updating(apply=report.finite):
            optimizer.step()
        backend.zero_grad()
    backend.drain()
    backend.close()
    return model.weight.detach().flatten().clone()


def start(group: int) -> Tensor:
    return torch.randn(3, 7, generator=torch.Generator().manual_seed(group), dtype=torch.float64)


@pytest.mark.parametrize(
    ("size", "groups", "topology"), [(2, 2, "ring"), (2, 3, "random_ring"), (3, 2, "ring"), (2, 4, "exponential")]
)
def test_members_stay_equal_and_groups_conserve_the_sum(run_learners, size: int, groups: int, topology: TopologyName):
    """21 weights do not divide into equal shares."""
    ends = torch.stack(run_learners(size * groups, lambda world: trained(world, size, 60, 0.0, topology=topology)))
    for rank, weights in enumerate(ends):
        assert torch.equal(weights, ends[rank // size * size])
    of_groups, began = ends[::size], torch.stack([start(group).flatten() for group in range(groups)])
    torch.testing.assert_close(of_groups.sum(0), began.sum(0), rtol=0, atol=1e-12)
    assert (of_groups - of_groups.mean(0)).norm() < 0.1 * (began - began.mean(0)).norm()


@pytest.mark.parametrize("changes", [{}, {"compression": "int8"}, {"continuous_momentum": True}])
def test_members_stay_equal_while_they_train(run_learners, changes: dict[str, Any]):
    ends = run_learners(6, lambda world: trained(world, 2, 40, 0.05, **changes))
    for first, second in zip(ends[::2], ends[1::2], strict=True):
        assert torch.equal(first, second)
        assert first.isfinite().all()
    assert not torch.equal(ends[0], ends[2])


def test_a_group_without_exchanges_is_allreduce_bitwise(run_learners, laboratory):
    steps = laboratory.global_steps([2, 5, 3, 1, 4, 2], steps=4, dtype=torch.float32)

    def grouped_learner(world: World) -> dict[str, Tensor]:
        mine = [units[world.rank % 2 :: 2] for units in steps]
        backend = grouped(world, 2, rounds_per_step=1e-9)
        planned = [[unit for unit in units for _ in range(2)] for units in steps]  # of both groups
        return laboratory.train(
            backend, mine, 0.5, torch.optim.AdamW, laboratory.network(torch.float32), of_all=planned
        )[1]

    def learner(world: World) -> dict[str, Tensor]:
        mine = [units[world.rank :: 2] for units in steps]
        backend = AllReduce(bucket_mb=25, world=world)
        return laboratory.train(backend, mine, 0.5, torch.optim.AdamW, laboratory.network(torch.float32), of_all=steps)[
            1
        ]

    synchronous = run_learners(2, learner)[0]
    for found in run_learners(4, grouped_learner):
        assert all(torch.equal(value, found[name]) for name, value in synchronous.items())


@pytest.mark.parametrize(("size", "groups"), [(1, 3), (2, 2), (3, 2)])
def test_members_claim_neighbouring_units_that_nobody_else_gets(run_learners, size: int, groups: int):
    number, every = 2, 48

    def learner(world: World) -> list[int]:
        backend, pace, found = grouped(world, size), random.Random(world.rank), []
        while (claim := backend.claim("units", number)).first < every:
            assert claim[1:] == (claim.first - backend.groups.member * number, number * size)
            found.append(claim.first)
            time.sleep(pace.uniform(0, 0.004))
        world.barrier()  # a group that is gone would disturb those that are still being made
        return found

    claims = run_learners(size * groups, learner)
    for group in range(groups):
        members = claims[group * size : (group + 1) * size]
        for together in zip(*members, strict=True):
            assert list(together) == [together[0] + place * number for place in range(size)]
            assert together[0] % (number * size) == 0
    assert Counter(first for each in claims for first in each) == Counter(range(0, every, number))


def test_claims_leave_nothing_but_a_counter_in_the_store(run_learners):
    def learner(world: World) -> int:
        backend = grouped(world, 2)
        store = world.joined.get_group_store()
        world.barrier()
        before = store.num_keys()
        world.barrier()
        for _ in range(20):
            backend.claim("units", 1)
        world.barrier()
        return store.num_keys() - before

    assert set(run_learners(4, learner)) == {1}


def test_the_state_of_other_groups_is_left(run_learners):
    def learner(world: World) -> tuple[int, int]:
        backend = grouped(world, 2)
        states = [{"round": 3 + rank, "groups": {"size": 2}} for rank in range(4)]
        backend.load_state_dict(states, world.rank, 4)
        own = backend.round
        world.barrier()
        backend.load_state_dict([state | {"groups": {"size": 1}} for state in states], world.rank, 4)
        return own, backend.round

    assert run_learners(4, learner) == [(3 + rank, 6) for rank in range(4)]
