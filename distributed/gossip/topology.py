"""Who mixes with whom: topologies as doubly stochastic matrices T, whose row i says what learner i mixes in.

    w_i  <-  sum_j T_ij w_j

Doubly stochastic (rows and columns sum to 1) means that the mean over learners is conserved. A topology is a function
of the shared seed and the round alone, so that all learners agree on it without a message. Each docstring gives the
factor by which disagreement, sum_i ||w_i - mean||^2, shrinks per round of L learners.
Sources: ring, random ring and complete (there: delay-by-one) in arXiv 2110.11199, section III and appendices A, B; one
random neighbour in arXiv 2112.01433, section 4; one-peer exponential in arXiv 2110.13363.
"""

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from distributed.keyed import keyed_seed

TopologyName = Literal["ring", "random_ring", "random_pairwise", "exponential", "complete"]


class Topology(ABC):
    """A rule that gives every learner its row of T for every round; the same on all learners."""

    fixed: ClassVar[bool] = False
    """Whether T is the same in every round."""

    def period(self, size: int) -> int | None:
        """After how many rounds T comes again; None where rounds are random, and any two learners equally often meet."""
        return 1 if self.fixed else None

    @abstractmethod
    def row(self, rank: int, size: int, round: int) -> dict[int, float]:
        """Row ``rank`` of T: the learners whose weights ``rank`` mixes in, itself included. Their weights sum to 1."""

    def column(self, rank: int, size: int, round: int) -> dict[int, float]:
        """Column ``rank`` of T: the learners that ``rank`` sends to, with their weights. T is symmetric unless said."""
        return self.row(rank, size, round)

    def partners(self, rank: int, size: int) -> list[int] | None:
        """The learners with which ``rank`` exchanges messages in any round; None where rounds are random: it may be any."""
        period = self.period(size)
        if period is None:
            return None
        rounds = [(self.row(rank, size, each), self.column(rank, size, each)) for each in range(period)]
        return sorted({learner for row, column in rounds for learner in (*row, *column)} - {rank})

    def mixing_matrix(self, size: int, round: int) -> Tensor:
        """T as a float64 matrix of shape (size, size)."""
        T = torch.zeros(size, size, dtype=torch.float64)
        for rank in range(size):
            for learner, weight in self.row(rank, size, round).items():
                T[rank, learner] = weight
        return T


class FixedRing(Topology):
    """Weight 1/3 each for the learner itself, its left and its right neighbour; factor (1/3 + 2/3 cos(2 pi / L))^2.

    With two learners left and right are the same one, which then weighs 2/3; alone, a learner keeps what it has.
    """

    fixed = True

    def row(self, rank: int, size: int, round: int) -> dict[int, float]:
        """A row of the circulant matrix (1/3, 1/3, 1/3)."""
        row = {rank: 1.0} if size == 1 else {rank: 1 / 3}
        for neighbour in ((rank - 1) % size, (rank + 1) % size) if size > 1 else ():
            row[neighbour] = row.get(neighbour, 0.0) + 1 / 3
        return row


class RandomRing(Topology):
    """P^T T_ring P with a fresh permutation P every round; the factor is on average (L-3) / (3 (L-1)), below 1/3."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.ring = FixedRing()

    def row(self, rank: int, size: int, round: int) -> dict[int, float]:
        """The ring's row at the place that ``rank`` has in this round's permutation."""
        seats = seating(self.seed, size, round)
        ring_row = self.ring.row(seats.place_of[rank], size, round)
        return {seats.learner_at[place]: weight for place, weight in ring_row.items()}


class RandomPairwise(Topology):
    """Weight 1/2 each for the learner itself and a random partner; with an odd L one learner keeps its weights.

    The factor is on average (L-2) / (2 (L-1)) for even L and 1/2 for odd L above 1.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def row(self, rank: int, size: int, round: int) -> dict[int, float]:
        """The learners at places 0 and 1 of the permutation are partners, those at 2 and 3, and so on."""
        seats = seating(self.seed, size, round)
        partner_place = seats.place_of[rank] ^ 1
        if partner_place >= size:
            return {rank: 1.0}
        return {rank: 0.5, seats.learner_at[partner_place]: 0.5}


class Exponential(Topology):
    """T = (I + P) / 2, P a shift by 1, 2, 4, ... in turn: each learner sends to one and receives from another.

    Where L is a power of two, log2(L) rounds in a row reach the exact mean.
    """

    def row(self, rank: int, size: int, round: int) -> dict[int, float]:
        """Weight 1/2 each for the learner itself and the one ``shift`` places back."""
        return {rank: 1.0} if size == 1 else {rank: 0.5, (rank - _shift(size, round)) % size: 0.5}

    def column(self, rank: int, size: int, round: int) -> dict[int, float]:
        """T is not symmetric: the recipient is the learner ``shift`` places ahead."""
        return {rank: 1.0} if size == 1 else {rank: 0.5, (rank + _shift(size, round)) % size: 0.5}

    def period(self, size: int) -> int:
        """As many rounds as there are shifts."""
        return max(1, (size - 1).bit_length())


class Complete(Topology):
    """Weight 1/L for every learner: exact agreement in one round of L-1 messages; delay_by_one uses an all-reduce."""

    fixed = True

    def row(self, rank: int, size: int, round: int) -> dict[int, float]:
        """The same weight for all learners."""
        return dict.fromkeys(range(size), 1 / size)


class Seating(NamedTuple):
    """A permutation and its inverse."""

    learner_at: list[int]  # by place
    place_of: list[int]  # by learner


@lru_cache(maxsize=16)
def seating(seed: int, size: int, round: int) -> Seating:
    """The random permutation of a round; remembered, as a learner asks for its row and its column."""
    generator = torch.Generator().manual_seed(keyed_seed(seed, "topology", size, round))
    order = torch.randperm(size, generator=generator)
    return Seating(order.tolist(), order.argsort().tolist())


def make_topology(name: TopologyName, seed: int) -> Topology:
    """The topology that a configuration names, with the seed that all learners share."""
    topologies: dict[TopologyName, Topology] = {
        "ring": FixedRing(),
        "random_ring": RandomRing(seed),
        "random_pairwise": RandomPairwise(seed),
        "exponential": Exponential(),
        "complete": Complete(),
    }
    return topologies[name]


def _shift(size: int, round: int) -> int:
    """1, 2, 4, ..., the largest power of two below ``size``, then from the beginning."""
    return int(2 ** (round % (size - 1).bit_length()))
