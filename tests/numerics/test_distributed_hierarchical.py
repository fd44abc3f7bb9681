"""Hierarchical mixing between its two ends: one group is all-reduce, groups of one are DPSGD; a group is one learner."""

import math

import pytest
import torch
from torch import Tensor, nn

from distributed.gossip.topology import TopologyName
from distributed.learners.world import World
from distributed.schemes.allreduce import AllReduce
from distributed.schemes.dpsgd import DecentralisedSgd
from distributed.schemes.hierarchical import Hierarchical
from tests.schemes import SCHEMES


def gossip(world: World, topology: TopologyName, mix_moments: bool = False) -> DecentralisedSgd:
    return SCHEMES["dpsgd"].build(world, topology=topology, mix_moments=mix_moments)


def hierarchical(
    world: World, size: int | None, topology: TopologyName = "ring", moments: bool = False
) -> Hierarchical:
    return Hierarchical(group_size=size, topology=topology, seed=1, mix_moments=moments, bucket_mb=25, world=world)


def test_one_group_of_all_is_allreduce_bitwise(run_learners, laboratory):
    steps = laboratory.global_steps([2, 5, 3, 1, 4, 2], steps=4, dtype=torch.float32)

    def learner(world: World) -> tuple[dict[str, Tensor], ...]:
        mine = [units[world.rank :: world.size] for units in steps]
        backends = (AllReduce(bucket_mb=25, world=world), hierarchical(world, world.size))
        models = (laboratory.network(torch.float32) for _ in backends)
        return tuple(
            laboratory.train(backend, mine, 0.5, torch.optim.AdamW, model, of_all=steps)[1]
            for backend, model in zip(backends, models, strict=True)
        )

    for synchronous, one_group in run_learners(3, learner):
        assert all(torch.equal(value, one_group[name]) for name, value in synchronous.items())


@pytest.mark.parametrize("topology", ["ring", "exponential", "random_pairwise"])
def test_groups_of_one_are_dpsgd_bitwise(run_learners, laboratory, topology: TopologyName):
    steps = laboratory.global_steps([2, 5, 3, 1, 4, 2], steps=4, dtype=torch.float32)

    def learner(world: World) -> tuple[dict[str, Tensor], ...]:
        mine = [units[world.rank :: world.size] for units in steps]
        backends = (gossip(world, topology, mix_moments=True), hierarchical(world, 1, topology, moments=True))
        models = (laboratory.network(torch.float32) for _ in backends)
        return tuple(
            laboratory.train(backend, mine, 0.5, torch.optim.AdamW, model, of_all=steps)[1]
            for backend, model in zip(backends, models, strict=True)
        )

    for flat, grouped in run_learners(3, learner):
        assert all(torch.equal(value, grouped[name]) for name, value in flat.items())


@pytest.mark.parametrize(("group_size", "groups"), [(2, 2), (2, 3), (3, 2)])
@pytest.mark.parametrize("topology", ["ring", "random_pairwise", "exponential"])
def test_a_group_is_one_learner_of_dpsgd(
    run_learners, laboratory, group_size: int, groups: int, topology: TopologyName
):
    """Members stay bitwise equal, and hold what a single learner with all their units would (to rounding)."""
    steps = laboratory.global_steps([3] * 6, steps=4)
    per_group = 6 // groups

    def unit_share(units: list, group: int) -> list:
        return units[group * per_group : (group + 1) * per_group]

    def member(world: World) -> dict[str, Tensor]:
        mine = [unit_share(units, world.rank // group_size)[world.rank % group_size :: group_size] for units in steps]
        backend = hierarchical(world, group_size, topology, moments=True)
        return laboratory.train(backend, mine, 0.5, torch.optim.AdamW, of_all=steps)[1]

    def single(world: World) -> dict[str, Tensor]:
        mine = [unit_share(units, world.rank) for units in steps]
        return laboratory.train(gossip(world, topology, mix_moments=True), mine, 0.5, torch.optim.AdamW, of_all=steps)[
            1
        ]

    members, singles = run_learners(groups * group_size, member), run_learners(groups, single)
    for rank, state in enumerate(members):
        first = members[rank // group_size * group_size]
        for name, value in state.items():
            assert torch.equal(value, first[name])
            torch.testing.assert_close(value, singles[rank // group_size][name], rtol=1e-8, atol=1e-9)
    assert any(not torch.equal(members[0][name], members[-1][name]) for name in members[0])


@pytest.mark.parametrize("word", ["hierarchical", "hierarchical_adpsgd"])
def test_a_non_finite_gradient_is_skipped_by_the_group(run_learners, laboratory, word: str):
    steps = laboratory.global_steps([2, 2, 2, 2], steps=3)
    steps[1][3][1].fill_(math.nan)  # of learner 3

    def learner(world: World) -> list[bool]:
        backend = SCHEMES[word].build(world, group_size=2)
        reports, weights = laboratory.train(backend, [units[world.rank :: 4] for units in steps])
        assert all(value.isfinite().all() for value in weights.values())
        return [report.finite for report in reports]

    assert run_learners(4, learner) == [[True] * 3] * 2 + [[True, False, True]] * 2


@pytest.mark.parametrize(("size", "named"), [(2, "backend.group_size=2"), (None, "2 learners per host")])
def test_groups_that_do_not_divide_the_learners_are_refused(size: int | None, named: str):
    group = torch.distributed.ProcessGroup(torch.distributed.HashStore(), 0, 3)
    world = World(0, 3, 0, 2, torch.device("cpu"), group)
    with pytest.raises(ValueError, match=f"{named} must divide the number of learners, got 3; .* one of 1, 3"):
        hierarchical(world, size)


def test_hosts_with_different_numbers_of_learners_are_refused(run_learners):
    def learner(world: World) -> None:
        uneven = World(world.rank, 4, 0, 2 if world.rank < 2 else 1, world.device, world.group)
        with pytest.raises(ValueError, match=r"groups of different sizes \[1, 2\].* set backend.group_size"):
            hierarchical(uneven, None).wrap(nn.Linear(2, 1))

    run_learners(4, learner)
