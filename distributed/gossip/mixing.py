"""The change of weights by mixing with those of other learners, independent of how the weights are sent.

    w_i  +=  sum_j T_ij (s_j - s_i)        T doubly stochastic; s: snapshots, as they were really sent

Functions of one learner are what backends call, those of all learners at once (stacked, ``_LP``: learners, elements of
the flat weights) what the simulator calls: they are made of the former.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from distributed.gossip.packing import Message, Piece
from distributed.gossip.topology import Topology

SPARSE_NEIGHBOURS = 16  # per learner, at most: beyond it a product of matrices is many times faster than sums of rows


def others(row: Mapping[int, float], rank: int) -> dict[int, float]:
    """A row or column of T without learner ``rank`` itself."""
    return {learner: weight for learner, weight in row.items() if learner != rank}


def weighted_difference(own: Tensor, received: Sequence[tuple[float, Tensor]]) -> Tensor:
    """sum_j T_ij (s_j - s_i), computed in the first of the received buffers; all of these are overwritten.

    Differences are summed, not weights: learners that agree keep their weights bitwise, and where T is symmetric, one
    end of an edge gains bitwise what the other end loses.

    Args:
        own: s_i, shape (elements,).
        received: (T_ij, s_j) of each neighbour, at least one.
    """
    (weight, difference), *others = received
    difference.sub_(own).mul_(weight)
    for weight, snapshot in others:
        difference.add_(snapshot.sub_(own), alpha=weight)
    return difference


def mean_difference(own: Tensor, total: Tensor, learners: int) -> Tensor:
    """(1/L) sum_j s_j - s_i, computed in ``total``, the sum over learners: mixing with T = 11'/L."""
    return total.div_(learners).sub_(own)


def pair_difference(own: Tensor, other: Tensor) -> Tensor:
    """s_j - s_i, computed in ``other``: what an exchange between two adds to w_i, times its weight."""
    return other.sub_(own)


def mixed_in(
    own: Message, received: Mapping[int, Message], row: Mapping[int, float], arriving: Iterable[Piece]
) -> Message | None:
    """The difference to add to ``own``, from its neighbours' messages weighted by ``row``; None without neighbours.

    ``arriving`` gives the pieces of the messages as they have come in: every entry once.
    """
    for part, entries in arriving:
        weighted_difference(
            own[part][entries], [(row[sender], message[part][entries]) for sender, message in received.items()]
        )
    return next(iter(received.values()), None)


def mixed_differences(snapshots_LP: Tensor, topology: Topology, round: int) -> Tensor:
    """sum_j T_ij (s_j - s_i) of every learner i, shape (L, P).

    Bitwise what learners compute each for itself, up to ``SPARSE_NEIGHBOURS`` of them; to rounding beyond.
    """
    learners = len(snapshots_LP)
    rows = [others(topology.row(rank, learners, round), rank) for rank in range(learners)]
    if max(map(len, rows)) > SPARSE_NEIGHBOURS:
        apart_LP = snapshots_LP - snapshots_LP[0]  # exactly 0 where learners agree
        T_LL = topology.mixing_matrix(learners, round).to(snapshots_LP)
        return (T_LL @ apart_LP).sub_(apart_LP)
    found_LP = torch.zeros_like(snapshots_LP)
    for rank, row in enumerate(rows):
        received = [(weight, snapshots_LP[sender].clone()) for sender, weight in row.items()]
        if received:
            found_LP[rank] = weighted_difference(snapshots_LP[rank], received)
    return found_LP


def mean_differences(snapshots_LP: Tensor) -> Tensor:
    """(1/L) sum_j s_j - s_i of every learner i, shape (L, P)."""
    total_P = snapshots_LP.sum(0)
    return torch.stack([mean_difference(own_P, total_P.clone(), len(snapshots_LP)) for own_P in snapshots_LP])
