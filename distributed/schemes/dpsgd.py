"""Synchronous decentralised SGD: every learner mixes its weights with its neighbours' while it computes its gradient.

    w_i  <-  w_i + sum_j T_ij (s_j - s_i) - lr g(w_i)        s: the weights at the beginning of the step

Source: DPSGD in arXiv 2112.01433, section 2; topologies in distributed/gossip/topology.py. With ``compression`` learners
mix what others know of them, as in distributed/gossip/replicas.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from distributed.backend import State
from distributed.gossip.codes import Compression
from distributed.gossip.compressed_rounds import CompressedRounds
from distributed.gossip.lockstep import LockstepMixing
from distributed.gossip.mixing import mixed_in, others
from distributed.gossip.neighbours import NeighbourExchange
from distributed.gossip.packing import Message
from distributed.gossip.replicas import checked_code
from distributed.gossip.topology import TopologyName, make_topology
from distributed.learners.launch import World
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
        super().__init__(mix_moments=mix_moments, world=world)
        self.topology = make_topology(topology, seed)
        code = checked_code(compression, compression_rate, mix_moments)
        self.compressed = (
            None if code is None else CompressedRounds(code, consensus_step, world.rank, to_all=self.topology.fixed)
        )
        self._exchange: NeighbourExchange | None = None
        self._row: dict[int, float] = {}  # the row of T of the round in flight, without this learner

    @property
    def exchange(self) -> NeighbourExchange:
        """The exchange with neighbours; its separate group keeps messages apart from collectives. Made on first use."""
        if self._exchange is None:
            learners = range(self.world.size)
            group = self.world.new_group("gossip", learners)
            self._exchange = NeighbourExchange(group=group, learners=learners, traffic=self.traffic)
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
        received = self.exchange.wait()
        if self.compressed is None:
            return mixed_in(snapshot, received, self._row)
        return self.compressed.difference(received)

    def drain(self) -> None:
        if self._exchange is not None:
            self._exchange.wait()

    def close(self) -> None:
        self._exchange = None

    def metrics(self) -> dict[str, float]:
        figures = super().metrics()
        return figures if self.compressed is None else figures | self.compressed.figures(figures["comm/rounds"])

    def state_dict(self) -> State:
        state = super().state_dict()
        return state if self.compressed is None else state | {"replicas": self.compressed.state_dict()}

    def load_state_dict(self, states: Sequence[Mapping[str, Any]], rank: int, world_size: int) -> None:
        super().load_state_dict(states, rank, world_size)
        if self.compressed is not None:
            self.compressed.load_state_dict(states, world_size)
