"""Who asks whom for an exchange in asynchronous gossip, and how often any two learners have one."""

import torch
from torch import Tensor

from distributed.gossip.topology import Topology


def initiated(topology: Topology, rank: int, size: int, round: int) -> dict[int, float]:
    """Whom learner ``rank`` asks for an exchange in a round, with what weight a.

    Every edge of T is initiated by the learner from which the other is less than half of the circle away, so that each
    has its share; across the very middle by both, with half the weight each: rounds of two learners are out of step, and
    two exchanges with the whole weight, of the same pair of weights, would go past the mean and on from there. An edge of
    a matrix that is not symmetric counts with the mean of its two weights.
    """
    row, column = topology.row(rank, size, round), topology.column(rank, size, round)
    edges: dict[int, float] = {}
    for peer in sorted({*row, *column} - {rank}):
        weight = (row.get(peer, 0.0) + column.get(peer, 0.0)) / 2
        distance = (peer - rank) % size
        if 2 * distance <= size:
            edges[peer] = weight / 2 if 2 * distance == size else weight
    return edges


def mixing_rates(topology: Topology, size: int) -> Tensor:
    """Exchanges of each two learners per round of gossip, shape (size, size), as if each had the weight 1/2.

    An exchange of weight a takes 4 a (1 - a) of ||w_i - w_j||^2 away, one of weight 1/2 all of it: so many exchanges it
    counts for. Where rounds are random all pairs are equally likely.
    """
    rates_LL, period = torch.zeros(size, size, dtype=torch.float64), topology.period(size)
    for round in range(period or 1):
        for rank in range(size):
            for peer, weight in initiated(topology, rank, size, round).items():
                rates_LL[rank, peer] += 4 * weight * (1 - weight)
    rates_LL = rates_LL + rates_LL.T
    if period is not None:
        return rates_LL / period
    everybody_LL = torch.ones_like(rates_LL).fill_diagonal_(0)
    return everybody_LL * (rates_LL.sum() / everybody_LL.sum())
