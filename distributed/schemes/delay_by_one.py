"""Delay-by-one: exact averaging of all learners' weights by all-reduce, hidden behind the gradient computation.

    w_i  <-  mean_j s_j - lr g(s_i)        s: the weights at the beginning of the step

The gradient is taken at the learner's own weights s_i, and applied to the mean of all. Hence w_i differs from the mean
by its last step alone: w_i - mean = -lr (g_i - mean g). Source: Algorithm 4 of arXiv 2110.11199.
"""

import torch
from torch.distributed import ProcessGroup, Work

from distributed.gossip.finite import NonFiniteWeightsError, is_finite
from distributed.gossip.lockstep import LockstepMixing
from distributed.gossip.mixing import mean_difference
from distributed.gossip.packing import Message
from distributed.learners.launch import World


class DelayByOne(LockstepMixing):
    """DPSGD with T = 11'/L at the traffic of an all-reduce, which is the same for any number of learners."""

    def __init__(self, *, mix_moments: bool, world: World) -> None:
        super().__init__(mix_moments=mix_moments, world=world)
        self._own_group: ProcessGroup | None = None
        self._sums: Message = []
        self._works: list[Work] = []

    @property
    def group(self) -> ProcessGroup:
        """A separate group, made on first use: sums are in flight while other code uses the group of all learners."""
        if self._own_group is None:
            self._own_group = self.world.new_group("delay-by-one", range(self.world.size))
        return self._own_group

    def _start_round(self, snapshot: Message) -> None:
        if [part.shape for part in self._sums] != [part.shape for part in snapshot]:
            self._sums = [torch.empty_like(part) for part in snapshot]
        for part, total in zip(snapshot, self._sums, strict=True):
            total.copy_(part)
            self._works.append(self.group.allreduce([total]))
            self.traffic.count_all_reduce(total.nbytes, self.world.size)

    def _finish_round(self, snapshot: Message) -> Message:
        self.drain()
        if not is_finite(self._sums):  # although every snapshot was: they are too large, or were changed on their way
            raise NonFiniteWeightsError("the sum over learners has")
        parts = zip(snapshot, self._sums, strict=True)
        return [mean_difference(part, total, self.world.size) for part, total in parts]

    def drain(self) -> None:
        for work in self._works:
            work.wait()
        self._works = []

    def close(self) -> None:
        self._own_group = None
