"""Gradients averaged inside groups of learners, weights mixed between the groups in the background.

    g    =  mean of the gradients of one group                     all-reduce, overlapped with backward
    w_g  <-  w_g + a (s_h - s_g)    whenever an exchange with group h has come in
    w_g  <-  w_g - lr g(v_g)                                       v_g: the weights that the forward used

A group acts as one learner of asynchronous gossip (distributed/schemes/adpsgd.py): no group waits for another one's
computation, and its members take their units of the pool together. Each member exchanges its own share of the weights
with the same member of other groups, at times of its own; before an update members fold in what has come in for their
shares, and gather them, so that all hold bitwise the same weights. Source: H-ADPSGD, arXiv 1907.05701, section 4.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distributed.backend import Claim, State
from distributed.gossip.codes import Compression
from distributed.gossip.groups import Groups, InGroups
from distributed.gossip.topology import TopologyName
from distributed.learners.world import World
from distributed.ranges import Count, Natural, Positive, Share
from distributed.schemes.adpsgd import AsynchronousGossip


class HierarchicalAsynchronousGossip(InGroups, AsynchronousGossip):
    """ADPSGD between groups of ``group_size`` learners of consecutive ranks; null takes the learners of one host."""

    def __init__(
        self,
        *,
        group_size: Count | None,
        topology: TopologyName,
        rounds_per_step: Positive,
        max_staleness: Count,
        continuous_momentum: bool,
        compression: Compression,
        compression_rate: Count,
        consensus_step: Share | None,
        seed: Natural,
        bucket_mb: Positive,
        world: World,
    ) -> None:
        self.groups = Groups(world, group_size, bucket_mb)
        super().__init__(
            topology=topology,
            rounds_per_step=rounds_per_step,
            max_staleness=max_staleness,
            mix_moments=False,
            continuous_momentum=continuous_momentum,
            compression=compression,
            compression_rate=compression_rate,
            consensus_step=consensus_step,
            seed=seed,
            world=world,
        )

    def _peers(self) -> Sequence[int]:
        return self.groups.counterparts

    def claim(self, name: str, number: int) -> Claim:
        return self.groups.claim(name, number)

    # Between groups

    def _mixed(self) -> Sequence[Tensor]:
        return [self._shares(whole)[self.groups.member] for whole in self.flat.flat]

    def _shares(self, whole: Tensor) -> Sequence[Tensor]:
        """The parts of a flat buffer that members exchange; the first are the longest, by an element."""
        return whole.tensor_split(self.groups.size)

    def _advanced(self) -> bool:
        changed = self.mixing.advance()
        with self.traffic.waiting():
            self._gather(changed)
        return True

    @torch.no_grad()
    def _gather(self, changed: bool) -> None:
        """Take the other members' shares; ``changed``: whether this one's is not as it was. Collective in the group."""
        if not self.mixes or self.groups.size == 1 or not self.groups.any(changed):
            return
        for whole in self.flat.flat:
            shares = self._shares(whole)
            longest, own = len(shares[0]), shares[self.groups.member]
            sent = torch.nn.functional.pad(own, (0, longest - len(own)))
            for member, found in enumerate(self.groups.gather(sent).split(longest)):
                if member != self.groups.member:
                    shares[member].copy_(found[: len(shares[member])])

    def drain(self) -> None:
        super().drain()
        self._gather(True)

    def state_dict(self) -> State:
        return {"groups": {"size": self.groups.size}, **super().state_dict()}

    def _goes_on_from(self, states: Sequence[Mapping[str, Any]], world_size: int) -> bool:
        same = all(state["groups"] == {"size": self.groups.size} for state in states)
        return same and super()._goes_on_from(states, world_size)
