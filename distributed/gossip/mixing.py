"""What one learner's weights gain from those of its neighbours, apart from how these travel.

w_i  +=  sum_j T_ij (s_j - s_i)        T doubly stochastic; s: snapshots, as they were really sent
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from distributed.gossip.packing import Message


def weighted_difference(own: Tensor, received: Sequence[tuple[float, Tensor]]) -> Tensor:
    """sum_j T_ij (s_j - s_i), computed in the first of the received buffers; all of these are overwritten.

    As differences: learners that agree stay bitwise where they are, and where T is symmetric, what one end of an edge
    gains is bitwise what the other end loses.

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
    """What ``own`` gains from the messages of its neighbours, by the weights of ``row``; None if it has none."""
    if not received:
        return None
    return [
        weighted_difference(part, [(row[sender], message[index]) for sender, message in received.items()])
        for index, part in enumerate(own)
    ]
