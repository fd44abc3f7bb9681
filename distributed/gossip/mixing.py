"""The change of one learner's weights by mixing with its neighbours', independent of how the weights are sent.

w_i  +=  sum_j T_ij (s_j - s_i)        T doubly stochastic; s: snapshots, as they were really sent
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from distributed.gossip.packing import Message


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


def mixed_in(own: Message, received: Mapping[int, Message], row: Mapping[int, float]) -> Message | None:
    """The difference to add to ``own``, from its neighbours' messages weighted by ``row``; None without neighbours."""
    if not received:
        return None
    return [
        weighted_difference(part, [(row[sender], message[index]) for sender, message in received.items()])
        for index, part in enumerate(own)
    ]
