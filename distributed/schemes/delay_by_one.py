"""Delay-by-one: exact averaging of all learners' weights by all-reduce, hidden behind the gradient computation.

    w_i  <-  mean_j s_j - lr g(s_i)        s: the weights at the beginning of the step

The gradient is taken at the learner's own weights s_i, and applied to the mean of all. Hence w_i differs from the mean
by its last step alone: w_i - mean = -lr (g_i - mean g). Source: Algorithm 4 of arXiv 2110.11199.

Compressed messages cannot be summed on their way without what each sum loses being lost, so with ``compression`` each
learner hears all others, and mixes what it knows of them: distributed/gossip/replicas.py with T = 11'/L.
"""

import torch
from torch.distributed import ProcessGroup, Work

from distributed.gossip.codes import Compression
from distributed.gossip.compressed_rounds import compressed_rounds
from distributed.gossip.finite import NonFiniteWeightsError, is_finite
from distributed.gossip.lockstep import LockstepMixing
from distributed.gossip.mixing import mean_difference
from distributed.gossip.neighbours import NeighbourExchange
from distributed.gossip.packing import Message
from distributed.learners.world import World
from distributed.ranges import Count, Share


class DelayByOne(LockstepMixing):
    """DPSGD with T = 11'/L at the traffic of an all-reduce, which is the same for any number of learners."""

    def __init__(
        self,
        *,
        mix_moments: bool,
        compression: Compression,
        compression_rate: Count,
        consensus_step: Share | None,
        world: World,
    ) -> None:
        compressed = compressed_rounds(
            compression, compression_rate, consensus_step, mix_moments=mix_moments, rank=world.rank, to_all=True
        )
        super().__init__(mix_moments=mix_moments, world=world, compressed=compressed)
        self._exchange: NeighbourExchange | None = None
        self._own_group: ProcessGroup | None = None
        self._sums: Message = []
        self._works: list[Work] = []

    @property
    def group(self) -> ProcessGroup:
        """A separate group, made on first use: sums are in flight while other code uses the group of all learners."""
        if self._own_group is None:
            self._own_group = self.world.new_group("delay-by-one", range(self.world.size))
        return self._own_group

    @property
    def exchange(self) -> NeighbourExchange:
        """The exchange of compressed messages, made on first use."""
        if self._exchange is None:
            self._exchange = NeighbourExchange(group=self.group, learners=range(self.world.size), world=self.world)
        return self._exchange

    def _start_round(self, snapshot: Message) -> None:
        if self.compressed is not None:
            others = {j: 1 / self.world.size for j in range(self.world.size) if j != self.world.rank}
            self.exchange.start_each(*self.compressed.begin(snapshot, others, others))
            return
        if [part.shape for part in self._sums] != [part.shape for part in snapshot]:
            self._sums = [torch.empty_like(part) for part in snapshot]
        for part, total in zip(snapshot, self._sums, strict=True):
            total.copy_(part)
            self._works.append(self.group.allreduce([total]))
            self.traffic.count_all_reduce(total.nbytes, self.world.size)

    def _finish_round(self, snapshot: Message) -> Message | None:
        if self.compressed is not None:
            return self.compressed.difference(self.exchange.wait())
        self.drain()
        if not is_finite(self._sums):  # although every snapshot was: they are too large, or were changed on their way
            raise NonFiniteWeightsError("the sum over learners has")
        parts = zip(snapshot, self._sums, strict=True)
        return [mean_difference(part, total, self.world.size) for part, total in parts]

    def drain(self) -> None:
        for work in self._works:
            self.world.wait(work, torch.device("cpu"))
        self._works = []
        if self._exchange is not None:
            self._exchange.wait()

    def close(self) -> None:
        self._own_group = self._exchange = None
