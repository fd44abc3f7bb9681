"""Gradients averaged inside groups of learners, weights mixed by gossip between the groups.

    g  =  mean of the gradients of one group            all-reduce, overlapped with backward
    w  <-  w + sum_h T_gh (s_h - s_g) - lr g            s_g: the weights of group g at the beginning of the step

A group acts as one learner of decentralised SGD: its members hold bitwise the same weights. So each member exchanges
only its share, 1/n of the message, with the same member of other groups, and the group gathers what came of it: every
byte crosses between two groups once. Source: H-ADPSGD in arXiv 1907.05701, section 4, with synchronous gossip.
"""

from distributed.gossip.groups import Groups, InGroups
from distributed.gossip.lockstep import LockstepMixing
from distributed.gossip.mixing import mixed_in, others
from distributed.gossip.neighbours import NeighbourExchange
from distributed.gossip.packing import Message
from distributed.gossip.topology import TopologyName, make_topology
from distributed.learners.world import World
from distributed.ranges import Count, Positive


class Hierarchical(InGroups, LockstepMixing):
    """DPSGD between groups of ``group_size`` learners of consecutive ranks; null takes the learners of one host."""

    def __init__(
        self,
        *,
        group_size: Count | None,
        topology: TopologyName,
        seed: int,
        mix_moments: bool,
        bucket_mb: Positive,
        world: World,
    ) -> None:
        super().__init__(mix_moments=mix_moments, world=world)
        self.groups = Groups(world, group_size, bucket_mb)
        self.topology = make_topology(topology, seed)
        self._exchange: NeighbourExchange | None = None
        self._row: dict[int, float] = {}  # weight of each other group in the round in flight

    @property
    def shares(self) -> int:
        return self.groups.size

    @property
    def mixes(self) -> bool:
        return self.groups.number > 1

    # Between groups

    @property
    def exchange(self) -> NeighbourExchange:
        """The exchange between the members of the same number in all groups, made on first use."""
        if self._exchange is None:
            learners = self.groups.counterparts
            partners = self.topology.partners(self.groups.own, self.groups.number)
            group = self.world.new_group(f"between-{self.groups.member}", learners, partners=partners)
            self._exchange = NeighbourExchange(group=group, learners=learners, world=self.world)
        return self._exchange

    def _start_round(self, snapshot: Message) -> None:
        own, number = self.groups.own, self.groups.number
        self._row = others(self.topology.row(own, number, self.round), own)
        recipients = others(self.topology.column(own, number, self.round), own)
        self.exchange.start(self._share(snapshot), self._row.keys(), recipients.keys())

    def _finish_round(self, snapshot: Message) -> Message | None:
        share = mixed_in(self._share(snapshot), self.exchange.received, self._row, self.exchange.arriving())
        return None if share is None else [self.groups.gather(part) for part in share]

    def _share(self, message: Message) -> Message:
        """The part of a message that this member exchanges."""
        return [part.chunk(self.groups.size)[self.groups.member] for part in message]

    def drain(self) -> None:
        if self._exchange is not None:
            self._exchange.wait()

    def close(self) -> None:
        super().close()
        self._exchange = None
