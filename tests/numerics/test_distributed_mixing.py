"""Laws of mixing: the sum over learners is conserved, disagreement contracts at the topology's rate."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distributed.gossip.lockstep import LockstepMixing
from distributed.gossip.mixing import weighted_difference
from distributed.gossip.topology import TopologyName, make_topology
from distributed.learners.world import World
from tests.schemes import SCHEMES

TOPOLOGIES = get_args(TopologyName)


def mixing(world: World, start: Tensor, scheme: str) -> tuple[LockstepMixing, nn.Linear]:
    """DPSGD on a topology, or delay-by-one, around a model with weights ``start``."""
    model = nn.Linear(len(start), 1, bias=False).to(start.dtype)
    backend = (
        SCHEMES["delay_by_one"].build(world)
        if scheme == "delay_by_one"
        else SCHEMES["dpsgd"].build(world, topology=scheme)
    )
    backend.wrap(model)
    with torch.no_grad():
        model.weight.copy_(start)
    return backend, model


def mix_only(world: World, start: Tensor, rounds: int, scheme: str = "ring") -> Tensor:
    """The weights of one learner after ``rounds`` steps that are all skipped; shape (rounds + 1, elements)."""
    backend, model = mixing(world, start, scheme)
    history = [start]
    for _ in range(rounds):
        backend.begin_step(1.0, 1.0)
        with backend.updating(apply=False):
            pass
        history.append(model.weight.detach().flatten().clone())
    assert backend.state_dict() == {"round": rounds}
    backend.close()
    return torch.stack(history)


@pytest.mark.parametrize("scheme", [*TOPOLOGIES, "delay_by_one"])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_sum_over_learners_is_conserved_in_fp32(run_learners, size: int, scheme: str):
    starts = torch.randn(size, 100, generator=torch.Generator().manual_seed(size))
    histories = run_learners(size, lambda world: mix_only(world, starts[world.rank], 100, scheme))
    final = torch.stack([history[-1] for history in histories]).double()
    mean = starts.double().mean(0)
    torch.testing.assert_close(final.mean(0), mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(final, mean.expand(size, -1), rtol=0, atol=2e-6)  # and all agree


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("size", [2, 5])
def test_every_round_is_that_of_the_matrix(run_learners, size: int, name: str):
    starts = torch.randn(size, 10, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    histories = torch.stack(run_learners(size, lambda world: mix_only(world, starts[world.rank], 6, name)))
    expected, topology = starts, make_topology(name, seed=1)
    for round in range(6):
        expected = topology.mixing_matrix(size, round) @ expected
        torch.testing.assert_close(histories[:, round + 1], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [4, 8])
def test_exponential_ends_in_the_mean_after_log2_rounds(run_learners, size: int):
    starts = torch.randn(size, 10, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    rounds = int(math.log2(size))
    for history in run_learners(size, lambda world: mix_only(world, starts[world.rank], rounds, "exponential")):
        torch.testing.assert_close(history[-1], starts.mean(0), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("size", [4, 5, 7])
def test_disagreement_contracts_at_the_rate_of_the_ring(run_learners, size: int):
    starts = torch.randn(size, 50, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    histories = torch.stack(run_learners(size, lambda w: mix_only(w, starts[w.rank], 20)))  # learner, round, element
    distance = (histories - histories.mean(0)).square().sum((0, 2)).sqrt()
    rate = 1 / 3 + 2 / 3 * math.cos(2 * math.pi / size)
    assert (distance[1:] <= distance[:-1] * rate * (1 + 1e-6)).all()
    assert (distance[-1] / distance[-6]).item() == pytest.approx(rate**5, rel=0.02)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_learners_that_agree_stay_bitwise_where_they_are(run_learners, name: str):
    start = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    for history in run_learners(5, lambda world: mix_only(world, start, 3, name)):
        assert all(torch.equal(weights, start) for weights in history)


@given(st.integers(1, 4), st.integers(0, 2**31))
def test_weighted_difference_is_the_mixing_row_minus_oneself(neighbours: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(20, generator=generator, dtype=torch.float64)
    snapshots = torch.randn(neighbours, 20, generator=generator, dtype=torch.float64)
    weights = torch.rand(neighbours, generator=generator, dtype=torch.float64) / neighbours
    expected = weights @ snapshots - weights.sum() * own
    received = [(weight, snapshot.clone()) for weight, snapshot in zip(weights.tolist(), snapshots, strict=True)]
    torch.testing.assert_close(weighted_difference(own, received), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scheme", ["ring", "delay_by_one"])
@pytest.mark.parametrize("size", [1, 3])
def test_consensus_tells_how_far_learners_are_apart(run_learners, size: int, scheme: str):
    starts = torch.randn(size, 40, generator=torch.Generator().manual_seed(size))
    mean = starts.double().mean(0)
    distance = (starts.double() - mean).square().sum(1).mean().item()

    def evaluate(world: World) -> dict[str, float]:
        with mixing(world, starts[world.rank], scheme)[0].consensus() as figures:
            return figures

    for figures in run_learners(size, evaluate):
        assert figures["consensus/distance"] == pytest.approx(distance, rel=1e-6)
        assert figures["consensus/relative_distance"] == pytest.approx(distance / mean.square().sum().item(), rel=1e-6)
