"""Gradients averaged inside groups of learners, weights mixed by gossip between the groups.

    g  =  mean of the gradients of one group            all-reduce, overlapped with backward
    w  <-  w + sum_h T_gh (s_h - s_g) - lr g            s_g: the weights of group g at the beginning of the step

A group acts as one learner of decentralised SGD: its members hold bitwise the same weights. So each member exchanges
only its share, 1/n of the message, with the same member of other groups, and the group gathers what came of it: every
byte crosses between two groups once. Source: H-ADPSGD in arXiv 1907.05701, section 4, with synchronous gossip.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar

import torch
from torch import nn
from torch.distributed import ProcessGroup

from distributed.backend import GradientReport
from distributed.base import UnequalStartError, checksum
from distributed.errors import UsageError
from distributed.gossip.lockstep import LockstepMixing
from distributed.gossip.mixing import mixed_in, others
from distributed.gossip.neighbours import NeighbourExchange
from distributed.gossip.packing import Message
from distributed.gossip.topology import TopologyName, make_topology
from distributed.learners.launch import World
from distributed.parameters.flat_parameters import FlatParameters
from distributed.parameters.gradient_average import GradientAverage
from distributed.ranges import Count, Positive


class Hierarchical(LockstepMixing):
    """DPSGD between groups of ``group_size`` learners of consecutive ranks; null takes the learners of one host."""

    whole_last_backward: ClassVar[bool] = True

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
        self.group_size = world.local_size if group_size is None else group_size
        if world.size % self.group_size:
            given = f"{self.group_size} learners per host" if group_size is None else f"backend.group_size={group_size}"
            raise UsageError(
                f"{given} must divide the number of learners, got {world.size}; set backend.group_size to one of "
                f"{', '.join(str(n) for n in range(1, world.size + 1) if world.size % n == 0)}"
            )
        self.groups = world.size // self.group_size
        self.group, self.member = divmod(world.rank, self.group_size)
        self.topology = make_topology(topology, seed)
        self._average = GradientAverage(bucket_mb=bucket_mb, traffic=self.traffic)
        self._inside: ProcessGroup | None = None
        self._exchange: NeighbourExchange | None = None
        self._row: dict[int, float] = {}  # weight of each other group in the round in flight

    @property
    def shares(self) -> int:
        return self.group_size

    @property
    def mixes(self) -> bool:
        return self.groups > 1

    # Inside a group

    def wrap(self, model: nn.Module) -> nn.Module:
        sizes = self.world.gather(self.group_size)
        if len(set(sizes)) > 1:
            raise UsageError(
                f"learners have groups of different sizes {sorted(set(sizes))}, as their hosts hold different numbers "
                "of learners; set backend.group_size to one number that divides them all"
            )
        self._model, self._flat = model, FlatParameters(model, gradients=False)
        first = self.group * self.group_size
        learners = range(first, first + self.group_size)
        self._inside = self.world.new_group(f"inside-{self.group}", learners, on_device=True)
        return self._average.wrap(model, self._inside)

    def synchronise(self, resumed: bool, rehearse: Callable[[], None] | None = None) -> None:
        super().synchronise(resumed)
        if rehearse is not None:
            self._average.rehearse(rehearse)
            self.zero_grad()

    def _check_resumed(self) -> None:
        checksums = self.world.gather(checksum(self.flat.flat))
        differing = [
            rank
            for rank, value in enumerate(checksums)
            if value != checksums[rank // self.group_size * self.group_size]
        ]
        if differing:
            raise UnequalStartError(
                f"after resuming, learners {differing} hold other weights than the first of their group, but learners "
                "of a group need the same; resume from another checkpoint, or start afresh with resume=false"
            )

    def accumulating(self) -> AbstractContextManager[None]:
        return self._average.accumulating()

    def reduce_gradients(self, max_norm: float | None) -> GradientReport:
        self._average.finish()
        return super().reduce_gradients(max_norm)

    # Between groups

    @property
    def exchange(self) -> NeighbourExchange:
        """The exchange between the members of the same number in all groups, made on first use."""
        if self._exchange is None:
            learners = range(self.member, self.world.size, self.group_size)
            group = self.world.new_group(f"between-{self.member}", learners)
            self._exchange = NeighbourExchange(group=group, learners=learners, traffic=self.traffic)
        return self._exchange

    def _start_round(self, snapshot: Message) -> None:
        self._row = others(self.topology.row(self.group, self.groups, self.round), self.group)
        recipients = others(self.topology.column(self.group, self.groups, self.round), self.group)
        self.exchange.start(self._share(snapshot), self._row.keys(), recipients.keys())

    def _finish_round(self, snapshot: Message) -> Message | None:
        share = mixed_in(self._share(snapshot), self.exchange.wait(), self._row)
        if share is None:
            return None
        assert self._inside is not None
        gathered = [torch.empty_like(part) for part in snapshot]
        for whole, part in zip(gathered, share, strict=True):
            self._inside._allgather_base(whole, part).wait()
            others_bytes = part.nbytes * (self.group_size - 1)
            self.traffic.count(others_bytes, others_bytes)
        return gathered

    def _share(self, message: Message) -> Message:
        """The part of a message that this member exchanges."""
        return [part.chunk(self.group_size)[self.member] for part in message]

    def drain(self) -> None:
        if self._exchange is not None:
            self._exchange.wait()

    def close(self) -> None:
        self._exchange = self._inside = None
