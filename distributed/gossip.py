"""Synchronous decentralised SGD: every learner mixes its weights with its neighbours' while it computes its gradient.

    w_i  <-  w_i + sum_j T_ij (s_j - s_i) - lr g(w_i)        s: the weights at the beginning of the step

Source: DPSGD in arXiv 2112.01433, section 2; topologies in distributed/topology.py.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from distributed.launch import World
from distributed.mixing import LockstepMixing
from distributed.packing import Message
from distributed.topology import TopologyName, make_topology
from distributed.transport import NeighbourExchange


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


class DecentralisedSgd(LockstepMixing):
    """DPSGD on a topology. One round per step; the messages travel during forward and backward."""

    def __init__(self, *, topology: TopologyName, seed: int, mix_moments: bool, world: World) -> None:
        super().__init__(mix_moments=mix_moments, world=world)
        self.topology = make_topology(topology, seed)
        self._exchange: NeighbourExchange | None = None
        self._row: dict[int, float] = {}  # of the round in flight, without this learner

    @property
    def exchange(self) -> NeighbourExchange:
        """The messages; their group of its own, so that they never mix with collectives, is made on first use."""
        if self._exchange is None:
            learners = range(self.world.size)
            group = self.world.new_group("gossip", learners)
            self._exchange = NeighbourExchange(group=group, learners=learners, traffic=self.traffic)
        return self._exchange

    def _start_round(self, snapshot: Message) -> None:
        rank, size = self.world.rank, self.world.size
        self._row = {j: weight for j, weight in self.topology.row(rank, size, self.round).items() if j != rank}
        recipients = [j for j in self.topology.column(rank, size, self.round) if j != rank]
        self.exchange.start(snapshot, self._row.keys(), recipients)

    def _finish_round(self, snapshot: Message) -> Message | None:
        return mixed_in(snapshot, self.exchange.wait(), self._row)

    def drain(self) -> None:
        if self._exchange is not None:
            self._exchange.wait()

    def close(self) -> None:
        self._exchange = None
