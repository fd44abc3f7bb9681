"""Nodes, links and how long collectives and exchanges take on them.

Learners of consecutive ranks share a node, whose one interface carries all that crosses between nodes, in both
directions at once. What is known of a link is its goodput and the latency of a message; within a node likewise. The
formulas are the usual ones of a ring (2(L-1) messages of 1/L of the buffer) and of a binomial tree; contention in
switches is not modelled.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from distributed.errors import UsageError
from distributed.learners.traffic import all_reduce_bytes


@dataclass(frozen=True, slots=True)
class Cluster:
    """Learners on nodes.

    Args:
        bytes_per_second: goodput of a node's interface, each way; ``latency_seconds``: of a message between nodes.
        inside_bytes_per_second, inside_latency_seconds: the same between learners of one node.
        burst_bytes: what an interface sends at once after a pause, as a shaped link does.
    """

    learners: int
    learners_per_node: int
    bytes_per_second: float
    latency_seconds: float
    inside_bytes_per_second: float
    inside_latency_seconds: float
    burst_bytes: float = 0.0

    def __post_init__(self) -> None:
        if self.learners > self.learners_per_node and self.learners % self.learners_per_node:
            raise UsageError(
                f"{self.learners} learners do not fill nodes of {self.learners_per_node}; choose a multiple of it"
            )

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return -(-self.learners // self.learners_per_node)

    def node_of(self, learner: int) -> int:
        """The node that a learner runs on."""
        return learner // self.learners_per_node

    def _carried(self, nbytes: float, crossing: bool, messages: int, burst: bool) -> float:
        if crossing:
            free = self.burst_bytes if burst else 0.0
            return max(nbytes - free, 0.0) / self.bytes_per_second + messages * self.latency_seconds
        return nbytes / self.inside_bytes_per_second + messages * self.inside_latency_seconds

    def all_reduce_seconds(self, payload_bytes: int, learners: int, crossing: bool, burst: bool = True) -> float:
        """A ring all-reduce over some learners; ``burst``: the link has paused before."""
        if learners == 1 or not payload_bytes:
            return 0.0
        return self._carried(all_reduce_bytes(payload_bytes, learners), crossing, 2 * (learners - 1), burst)

    def all_gather_seconds(self, own_bytes: float, learners: int, crossing: bool) -> float:
        """A ring all-gather of ``own_bytes`` from each of some learners."""
        return 0.0 if learners == 1 else self._carried((learners - 1) * own_bytes, crossing, learners - 1, True)

    def broadcast_seconds(self, payload_bytes: float) -> float:
        """A binomial tree over all learners: every generation passes the whole buffer on."""
        generations = math.ceil(math.log2(self.learners))
        return self._carried(generations * payload_bytes, self.nodes > 1, generations, True)

    def exchange_seconds(self, recipients: Mapping[int, Collection[int]], message_bytes: float) -> dict[int, float]:
        """How long each learner's messages of one round take, from when all its partners are ready.

        ``recipients``: to whom each learner sends. What crosses shares the interface of the node, out and in.
        """
        out_bytes, in_bytes = [0.0] * self.nodes, [0.0] * self.nodes
        inside_bytes = dict.fromkeys(recipients, 0.0)
        crosses = dict.fromkeys(recipients, False)
        for sender, receivers in recipients.items():
            for receiver in receivers:
                if self.node_of(sender) == self.node_of(receiver):
                    inside_bytes[sender] += message_bytes
                else:
                    out_bytes[self.node_of(sender)] += message_bytes
                    in_bytes[self.node_of(receiver)] += message_bytes
                    crosses[sender] = crosses[receiver] = True
        return {
            learner: max(
                self._carried(inside_bytes[learner], False, 1, False) if inside_bytes[learner] else 0.0,
                self._carried(max(out_bytes[node], in_bytes[node]), True, 1, True) if crosses[learner] else 0.0,
            )
            for learner in recipients
            for node in [self.node_of(learner)]
        }


class SharedLinks:
    """When exchanges between two learners end, where those of a node share its interface, one after the other."""

    def __init__(self, cluster: Cluster, message_bytes: float) -> None:
        self.cluster = cluster
        self.message_bytes = message_bytes
        self._free_at = [0.0] * cluster.nodes
        self._inside_free_at = [0.0] * cluster.learners

    def ends(self, now: float, initiator: int, answerer: int) -> float:
        """The end of an exchange that both are ready for at ``now``; its link is taken until then."""
        cluster = self.cluster
        nodes = cluster.node_of(initiator), cluster.node_of(answerer)
        crossing = nodes[0] != nodes[1]
        free_at, ends = (self._free_at, nodes) if crossing else (self._inside_free_at, (initiator, answerer))
        begins = max(now, *(free_at[each] for each in ends))
        rate = cluster.bytes_per_second if crossing else cluster.inside_bytes_per_second
        latency = cluster.latency_seconds if crossing else cluster.inside_latency_seconds
        end = begins + self.message_bytes / rate
        for each in ends:
            free_at[each] = end
        return end + 2 * latency  # the request, and the answer's begin
