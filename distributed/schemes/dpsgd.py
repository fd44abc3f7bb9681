"""Synchronous decentralised SGD: every learner mixes its weights with its neighbours' while it computes its gradient.

    w_i  <-  w_i + sum_j T_ij (s_j - s_i) - lr g(w_i)        s: the weights at the beginning of the step

Source: DPSGD in arXiv 2112.01433, section 2; topologies in distributed/gossip/topology.py. With ``compression`` learners
mix what others know of them, as in distributed/gossip/replicas.py.
"""

from distributed.gossip.codes import Compression
from distributed.gossip.compressed_rounds import compressed_rounds
from distributed.gossip.lockstep import LockstepMixing
from distributed.gossip.mixing import mixed_in, others
from distributed.gossip.neighbours import NeighbourExchange
from distributed.gossip.packing import Message
from distributed.gossip.topology import TopologyName, make_topology
from distributed.learners.world import World
from distributed.ranges import Count, Share


class DecentralisedSgd(LockstepMixing):
    """DPSGD on a topology. One round per step; the messages travel during forward and backward."""

    def __init__(
        self,
        *,
        topology: TopologyName,
        seed: int,
        mix_moments: bool,
        compression: Compression,
        compression_rate: Count,
        consensus_step: Share | None,
        world: World,
    ) -> None:
        self.topology = make_topology(topology, seed)
        compressed = compressed_rounds(
            compression, compression_rate, consensus_step,
            mix_moments=mix_moments, rank=world.rank, to_all=self.topology.fixed,
        )  # fmt: skip
        super().__init__(mix_moments=mix_moments, world=world, compressed=compressed)
        self._exchange: NeighbourExchange | None = None
        self._row: dict[int, float] = {}  # the row of T of the round in flight, without this learner

    @property
    def exchange(self) -> NeighbourExchange:
        """The exchange with neighbours; its separate group keeps messages apart from collectives. Made on first use."""
        if self._exchange is None:
            learners = range(self.world.size)
            partners = self.topology.partners(self.world.rank, self.world.size)
            group = self.world.new_group("gossip", learners, partners=partners)
            self._exchange = NeighbourExchange(group=group, learners=learners, world=self.world)
        return self._exchange

    def _start_round(self, snapshot: Message) -> None:
        rank, size = self.world.rank, self.world.size
        self._row = others(self.topology.row(rank, size, self.round), rank)
        column = others(self.topology.column(rank, size, self.round), rank)
        if self.compressed is None:
            self.exchange.start(snapshot, self._row.keys(), column.keys())
        else:
            self.exchange.start_each(*self.compressed.begin(snapshot, self._row, column))

    def _finish_round(self, snapshot: Message) -> Message | None:
        if self.compressed is None:
            return mixed_in(snapshot, self.exchange.received, self._row, self.exchange.arriving())
        return self.compressed.difference(self.exchange.wait())

    def drain(self) -> None:
        if self._exchange is not None:
            self._exchange.wait()

    def close(self) -> None:
        self._exchange = None
