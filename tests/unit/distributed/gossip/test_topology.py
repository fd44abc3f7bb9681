"""Mixing matrices: what every topology must satisfy, and how fast each one mixes."""

import math
import subprocess
import sys
import time
from typing import get_args

import pytest
import torch
from torch import Tensor

from distributed.gossip.topology import (
    Complete,
    Exponential,
    FixedRing,
    RandomPairwise,
    RandomRing,
    Topology,
    TopologyName,
    make_topology,
)

NAMES = get_args(TopologyName)
RANDOM = ("random_ring", "random_pairwise")


def mean_square(topology: Topology, size: int, rounds: int) -> Tensor:
    """The empirical mean of T^T T."""
    matrices = torch.stack([topology.mixing_matrix(size, round) for round in range(rounds)])
    return (matrices.mT @ matrices).mean(0)


def disagreement_factor(square: Tensor) -> float:
    """The largest factor by which E[T^T T] = ``square`` shrinks what is orthogonal to the mean."""
    size = len(square)
    return torch.linalg.eigvalsh(square - torch.full((size, size), 1 / size, dtype=torch.float64)).max().item()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", range(1, 10))
def test_mixing_matrix_is_doubly_stochastic(name: str, size: int):
    topology = make_topology(name, seed=3)
    for round in range(100):
        T = topology.mixing_matrix(size, round)
        ones = torch.ones(size, dtype=torch.float64)
        assert (T >= 0).all()
        torch.testing.assert_close(T.sum(0), ones, rtol=0, atol=1e-15)
        torch.testing.assert_close(T.sum(1), ones, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", range(1, 10))
def test_column_is_the_column_of_the_matrix(name: str, size: int):
    topology = make_topology(name, seed=3)
    for round in range(10):
        T = topology.mixing_matrix(size, round)
        for rank in range(size):
            column = topology.column(rank, size, round)
            assert {j: weight for j, weight in enumerate(T[:, rank].tolist()) if weight} == column


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", range(1, 10))
def test_partners_are_those_who_ever_exchange_messages(name: str, size: int):
    topology = make_topology(name, seed=3)
    T = sum(topology.mixing_matrix(size, round) for round in range(100))
    for rank in range(size):
        partners = topology.partners(rank, size)
        if name in RANDOM:
            assert partners is None
            continue
        assert partners == [other for other in range(size) if other != rank and T[rank, other] + T[other, rank]]


def test_partners_on_a_ring_and_on_exponential_graphs_are_few():
    assert FixedRing().partners(0, 1000) == [1, 999]
    assert len(Exponential().partners(500, 1024)) == 2 * 10 - 1  # half the circle is the same learner both ways


@pytest.mark.parametrize("topology", [FixedRing(), RandomRing(seed=7)])
def test_ring_of_one_two_and_three(topology: Topology):
    assert topology.row(0, 1, 0) == {0: 1.0}
    assert topology.row(0, 2, 0) == {0: 1 / 3, 1: 2 / 3}
    assert topology.row(1, 2, 0) == {1: 1 / 3, 0: 2 / 3}
    assert topology.row(1, 3, 0) == {0: 1 / 3, 1: 1 / 3, 2: 1 / 3}


@pytest.mark.parametrize("size", range(3, 17))
def test_second_eigenvalue_of_the_ring(size: int):
    eigenvalues = torch.linalg.eigvalsh(FixedRing().mixing_matrix(size, 0)).abs().sort(descending=True).values
    assert eigenvalues[0] == pytest.approx(1.0)
    assert eigenvalues[1] == pytest.approx(1 / 3 + 2 / 3 * math.cos(2 * math.pi / size), abs=1e-9)


@pytest.mark.parametrize("size", [4, 5, 8, 9])
def test_random_ring_has_the_mean_square_of_the_paper_s_appendix(size: int):
    rounds = 4000
    square = mean_square(RandomRing(seed=1), size, rounds)
    expected = torch.full((size, size), 2 / (3 * (size - 1)), dtype=torch.float64).fill_diagonal_(1 / 3)
    torch.testing.assert_close(square, expected, rtol=0, atol=4 / (3 * math.sqrt(rounds)))  # 4 standard errors
    torch.testing.assert_close(square.diagonal(), expected.diagonal())  # in every single round
    assert disagreement_factor(expected) == pytest.approx((size - 3) / (3 * (size - 1)))
    assert disagreement_factor(square) < 1 / 3


def test_products_of_random_rings_stay_within_the_paper_s_bound():
    """E||T_k ... T_1 - 11'/L||_2 <= sqrt(L-1) / sqrt(3)^k: equation of arXiv 2110.11199, appendix B."""
    size, ring, norms = 16, RandomRing(seed=5), torch.zeros(50, 10, dtype=torch.float64)
    for trial in range(len(norms)):
        product = torch.eye(size, dtype=torch.float64)
        for k in range(10):
            product = ring.mixing_matrix(size, 10 * trial + k) @ product
            norms[trial, k] = torch.linalg.matrix_norm(product - 1 / size, 2)
    bound = math.sqrt(size - 1) / math.sqrt(3) ** torch.arange(1, 11, dtype=torch.float64)
    assert (norms.mean(0) <= bound).all()


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 9])
def test_random_pairwise_shrinks_disagreement_by_the_derived_factor(size: int):
    factor = (size - 2) / (2 * (size - 1)) if size % 2 == 0 else 0.5
    measured = disagreement_factor(mean_square(RandomPairwise(seed=1), size, 4000))
    assert measured == pytest.approx(factor, abs=0.04)


@pytest.mark.parametrize("size", range(1, 10))
def test_random_pairwise_leaves_one_of_an_odd_number_alone(size: int):
    for round in range(20):
        T = RandomPairwise(seed=2).mixing_matrix(size, round)
        assert torch.equal(T, T.T)
        assert (T.diagonal() == 1).sum() == size % 2
        assert set(T.flatten().tolist()) <= {0.0, 0.5, 1.0}


@pytest.mark.parametrize("size", [2, 4, 8, 16, 64])
@pytest.mark.parametrize("first", [0, 1, 5])
def test_exponential_reaches_the_exact_mean_in_log2_rounds(size: int, first: int):
    product = torch.eye(size, dtype=torch.float64)
    for round in range(first, first + int(math.log2(size))):
        product = Exponential().mixing_matrix(size, round) @ product
    assert (product == 1 / size).all()


@pytest.mark.parametrize("size", [3, 5, 6, 7, 9])
def test_exponential_mixes_other_numbers_too(size: int):
    product = torch.eye(size, dtype=torch.float64)
    for round in range(40):
        product = Exponential().mixing_matrix(size, round) @ product
    torch.testing.assert_close(product, torch.full_like(product, 1 / size), rtol=0, atol=1e-6)


def test_complete_agrees_at_once():
    assert (Complete().mixing_matrix(5, 0) == 0.2).all()


@pytest.mark.parametrize("name", RANDOM)
def test_random_topologies_depend_on_seed_and_round_alone(name: str):
    matrices = [make_topology(name, seed).mixing_matrix(9, round) for seed in (1, 2) for round in range(20)]
    again = [make_topology(name, seed).mixing_matrix(9, round) for seed in (1, 2) for round in range(20)]
    assert all(torch.equal(a, b) for a, b in zip(matrices, again, strict=True))
    assert len({tuple(matrix.flatten().tolist()) for matrix in matrices}) > 35  # of 945 matchings


def test_another_process_sees_the_same_permutations():
    rows = "from distributed.gossip.topology import *; print([RandomRing(4).row(3, 9, k) for k in range(5)])"
    done = subprocess.run([sys.executable, "-c", rows], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([RandomRing(4).row(3, 9, k) for k in range(5)])


@pytest.mark.parametrize("name", NAMES)
def test_row_and_column_are_cheap_for_many_learners(name: str):
    topology, started = make_topology(name, seed=1), time.process_time()
    for round in range(200):
        topology.row(17, 128, round)
        topology.column(17, 128, round)
    assert (time.process_time() - started) / 200 < 0.002  # seconds per round
