"""Laws of mixing: the sum over learners is conserved, disagreement contracts at the topology's rate."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distributed.gossip import DecentralisedSgd, weighted_difference
from distributed.launch import World


def mix_only(world: World, start: Tensor, rounds: int) -> Tensor:
    """The weights of one learner after ``rounds`` steps that are all skipped; shape (rounds + 1, elements)."""
    model = nn.Linear(len(start), 1, bias=False).to(start.dtype)
    backend = DecentralisedSgd(topology="ring", world=world)
    backend.wrap(model)
    with torch.no_grad():
        model.weight.copy_(start)
    history = [start]
    for _ in range(rounds):
        backend.begin_step(1.0)
        with backend.updating(apply=False):
            pass
        history.append(model.weight.detach().flatten().clone())
    assert backend.state_dict() == {"round": rounds}
    backend.close()
    return torch.stack(history)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_sum_over_learners_is_conserved_in_fp32(run_learners, size: int):
    starts = torch.randn(size, 100, generator=torch.Generator().manual_seed(size))
    final = torch.stack([history[-1] for history in run_learners(size, lambda w: mix_only(w, starts[w.rank], 300))])
    mean = starts.double().mean(0)
    torch.testing.assert_close(final.double().mean(0), mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(final.double(), mean.expand(size, -1), rtol=0, atol=2e-6)  # and all agree


@pytest.mark.parametrize("size", [4, 5, 7])
def test_disagreement_contracts_at_the_rate_of_the_ring(run_learners, size: int):
    starts = torch.randn(size, 50, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    histories = torch.stack(run_learners(size, lambda w: mix_only(w, starts[w.rank], 20)))  # learner, round, element
    distance = (histories - histories.mean(0)).square().sum((0, 2)).sqrt()
    rate = 1 / 3 + 2 / 3 * math.cos(2 * math.pi / size)
    assert (distance[1:] <= distance[:-1] * rate * (1 + 1e-6)).all()
    assert (distance[-1] / distance[-6]).item() == pytest.approx(rate**5, rel=0.02)


def test_learners_that_agree_stay_bitwise_where_they_are(run_learners):
    start = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    for history in run_learners(5, lambda world: mix_only(world, start, 3)):
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
