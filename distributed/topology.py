"""Who mixes with whom: topologies as doubly stochastic matrices T, whose row i says what learner i mixes in.

    w_i  <-  sum_j T_ij w_j

Doubly stochastic (rows and columns sum to 1) means that the mean over learners is conserved. Disagreement shrinks per
round by the second largest eigenvalue; for the fixed ring that is 1/3 + 2/3 cos(2 pi / L).
Source: arXiv 2110.11199, section III and appendix A.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

TopologyName = Literal["ring"]


class Topology(ABC):
    """A rule that gives every learner its row of T for every round; the same on all learners."""

    @abstractmethod
    def row(self, rank: int, size: int, round: int) -> dict[int, float]:
        """What learner ``rank`` mixes in: weight by learner, itself included. The weights sum to 1."""

    def column(self, rank: int, size: int, round: int) -> dict[int, float]:
        """Who mixes in learner ``rank``, with what weight: to these it sends."""
        rows = {learner: self.row(learner, size, round) for learner in range(size)}
        return {learner: row[rank] for learner, row in rows.items() if rank in row}

    def mixing_matrix(self, size: int, round: int) -> Tensor:
        """T as a float64 matrix of shape (size, size)."""
        T = torch.zeros(size, size, dtype=torch.float64)
        for rank in range(size):
            for learner, weight in self.row(rank, size, round).items():
                T[rank, learner] = weight
        return T


class FixedRing(Topology):
    """One third each of oneself, the left and the right neighbour.

    With two learners left and right are the same one, which then weighs 2/3; alone, a learner keeps what it has.
    """

    def row(self, rank: int, size: int, round: int) -> dict[int, float]:
        """A row of the circulant matrix (1/3, 1/3, 1/3)."""
        row = {rank: 1.0} if size == 1 else {rank: 1 / 3}
        for neighbour in ((rank - 1) % size, (rank + 1) % size) if size > 1 else ():
            row[neighbour] = row.get(neighbour, 0.0) + 1 / 3
        return row

    def column(self, rank: int, size: int, round: int) -> dict[int, float]:
        """T is symmetric."""
        return self.row(rank, size, round)


TOPOLOGIES: dict[TopologyName, type[Topology]] = {"ring": FixedRing}


def make_topology(name: TopologyName, seed: int) -> Topology:
    """The topology of that name."""
    return TOPOLOGIES[name]()
