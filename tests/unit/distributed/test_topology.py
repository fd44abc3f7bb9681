"""Mixing matrices: what every topology must satisfy, and the ring's spectrum."""

import math

import pytest
import torch

from distributed.topology import TOPOLOGIES, FixedRing


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("size", range(1, 10))
def test_mixing_matrix_is_doubly_stochastic(name: str, size: int):
    for round in range(3):
        T = TOPOLOGIES[name]().mixing_matrix(size, round)
        ones = torch.ones(size, dtype=torch.float64)
        assert (T >= 0).all()
        torch.testing.assert_close(T.sum(0), ones, rtol=0, atol=1e-15)
        torch.testing.assert_close(T.sum(1), ones, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("size", range(1, 10))
def test_column_is_the_column_of_the_matrix(name: str, size: int):
    topology = TOPOLOGIES[name]()
    T = topology.mixing_matrix(size, 1)
    for rank in range(size):
        column = topology.column(rank, size, 1)
        assert {j: weight for j, weight in enumerate(T[:, rank].tolist()) if weight} == column


def test_ring_of_one_two_and_three():
    ring = FixedRing()
    assert ring.row(0, 1, 0) == {0: 1.0}
    assert ring.row(0, 2, 0) == {0: 1 / 3, 1: 2 / 3}
    assert ring.row(1, 2, 0) == {1: 1 / 3, 0: 2 / 3}
    assert ring.row(1, 3, 0) == {0: 1 / 3, 1: 1 / 3, 2: 1 / 3}


@pytest.mark.parametrize("size", range(3, 17))
def test_second_eigenvalue_of_the_ring(size: int):
    eigenvalues = torch.linalg.eigvalsh(FixedRing().mixing_matrix(size, 0)).abs().sort(descending=True).values
    assert eigenvalues[0] == pytest.approx(1.0)
    assert eigenvalues[1] == pytest.approx(1 / 3 + 2 / 3 * math.cos(2 * math.pi / size), abs=1e-9)
