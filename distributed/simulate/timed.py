"""When the steps of schemes in lockstep begin and end, and what they send.

Every scheme is the list of its messages, from which come both its bytes and its seconds, and the rule of who waits for
whom. Of a learner's computation backward is the last two thirds; ``work_seconds`` is what the scheme itself computes: copies,
selection, folding. Those that compress gradients are in timed_compressed.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from distributed.gossip.codes import Code
from distributed.gossip.mixing import others
from distributed.gossip.topology import Topology
from distributed.learners.traffic import all_reduce_bytes
from distributed.simulate.cluster import Cluster
from distributed.simulate.model_size import ModelSize, filled_shares

FORWARD_SHARE = 1 / 3  # of the computation of a step; backward computes two products for each of forward
AGREEMENT_BYTES = 8  # of the step's weight, which schemes that average gradients sum over learners
ROUNDS = 32  # of a random topology, over which its traffic is averaged

Kind = Literal["all_reduce", "all_gather", "broadcast"]


class Collective(NamedTuple):
    """A message between all learners; ``nbytes``: of the buffer, or of each learner's own part in an all-gather."""

    kind: Kind
    nbytes: int

    def bytes_sent(self, learners: int) -> float:
        """Mean over learners."""
        if self.kind == "all_reduce":
            return all_reduce_bytes(self.nbytes, learners)
        return (learners - 1) * self.nbytes / (1 if self.kind == "all_gather" else learners)

    def seconds(self, cluster: Cluster, burst: bool = True) -> float:
        """From when all learners take part."""
        if cluster.learners == 1:
            return 0.0
        crossing = cluster.nodes > 1
        if self.kind == "all_reduce":
            return cluster.all_reduce_seconds(self.nbytes, cluster.learners, crossing, burst)
        if self.kind == "all_gather":
            return cluster.all_gather_seconds(self.nbytes, cluster.learners, crossing)
        return cluster.broadcast_seconds(self.nbytes)


class StepStart(NamedTuple):
    """Where learners are when a step begins, by rank."""

    begins: Sequence[float]
    computes: Sequence[float]  # seconds of this step's computation
    work_seconds: float
    step: int


class Timed(ABC):
    """A scheme in lockstep."""

    @abstractmethod
    def bytes_sent(self, cluster: Cluster, model: ModelSize) -> float:
        """Bytes that a learner sends for the exchange of a step, the mean over learners."""

    @abstractmethod
    def ends(self, cluster: Cluster, model: ModelSize, given: StepStart) -> list[float]:
        """When each learner ends the step."""


class Alone(Timed):
    """``backend=single``, and computation alone: nobody waits for anybody."""

    def bytes_sent(self, cluster: Cluster, model: ModelSize) -> float:
        return 0.0

    def ends(self, cluster: Cluster, model: ModelSize, given: StepStart) -> list[float]:
        return [begin + compute + given.work_seconds for begin, compute in zip(*given[:2], strict=True)]


@dataclass(frozen=True, slots=True)
class Averaged(Timed):
    """``allreduce``, ``ssgd_noise``: gradients averaged bucket by bucket while backward still runs."""

    bucket_mb: float

    def bytes_sent(self, cluster: Cluster, model: ModelSize) -> float:
        return sum(all_reduce_bytes(each, cluster.learners) for each in model.buckets(self.bucket_mb))

    def ends(self, cluster: Cluster, model: ModelSize, given: StepStart) -> list[float]:
        begin = max(given.begins) + Collective("all_reduce", AGREEMENT_BYTES).seconds(cluster)
        buckets, begins = model.buckets(self.bucket_mb), [begin] * cluster.learners
        end = bucketed_end(cluster, buckets, begins, given.computes, cluster.learners, cluster.nodes > 1)
        return [end + given.work_seconds] * len(given.computes)


def bucketed_end(
    cluster: Cluster, buckets: Sequence[int], begins: Sequence[float], computes: Sequence[float],
    learners: int, crossing: bool,
) -> float:  # fmt: skip
    """When the last bucket is averaged over ``learners``, which is not before the last of them has computed.

    A bucket is sent once all learners have filled it, one after the other.
    """
    end = 0.0
    for place, (nbytes, filled) in enumerate(zip(buckets, filled_shares(buckets), strict=True)):
        share = FORWARD_SHARE + (1 - FORWARD_SHARE) * filled
        ready = max(begin + share * compute for begin, compute in zip(begins, computes, strict=True))
        end = max(end, ready) + cluster.all_reduce_seconds(nbytes, learners, crossing, burst=place == 0)
    return end


@dataclass(frozen=True, slots=True)
class Neighbours(Timed):
    """``dpsgd``: weights travel while the gradient is computed, and a learner waits for its neighbours alone.

    With a ``code`` every message is as long as that makes it; the first of each stream, which is whole, is left out.
    """

    topology: Topology
    code: Code | None = None

    def recipients(self, size: int, step: int) -> dict[int, list[int]]:
        """To whom each learner sends in a step."""
        return {rank: list(others(self.topology.column(rank, size, step), rank)) for rank in range(size)}

    def bytes_sent(self, cluster: Cluster, model: ModelSize) -> float:
        return mean_degree(self, cluster.learners) * message_bytes(model, self.code)

    def ends(self, cluster: Cluster, model: ModelSize, given: StepStart) -> list[float]:
        recipients = self.recipients(cluster.learners, given.step)
        seconds = cluster.exchange_seconds(recipients, message_bytes(model, self.code))
        ready = list(given.begins)
        for sender, receivers in recipients.items():
            for receiver in receivers:  # a message needs both its ends
                ready[receiver] = max(ready[receiver], given.begins[sender])
                ready[sender] = max(ready[sender], given.begins[receiver])
        return [
            max(begin + compute, ready[rank] + seconds[rank]) + given.work_seconds
            for rank, (begin, compute) in enumerate(zip(given.begins, given.computes, strict=True))
        ]


def message_bytes(model: ModelSize, code: Code | None) -> int:
    """Bytes of a message that holds the weights, or what has changed of them."""
    return model.nbytes if code is None else code.message_bytes(model.parameters)


def mean_degree(scheme: Neighbours, size: int) -> float:
    """Messages that a learner sends per round, the mean over learners and ``ROUNDS`` rounds."""
    found = [len(receivers) for step in range(ROUNDS) for receivers in scheme.recipients(size, step).values()]
    return sum(found) / len(found)


class Delayed(Timed):
    """``delay_by_one``: weights of all are averaged while the gradient is computed."""

    def bytes_sent(self, cluster: Cluster, model: ModelSize) -> float:
        return all_reduce_bytes(model.nbytes, cluster.learners)

    def ends(self, cluster: Cluster, model: ModelSize, given: StepStart) -> list[float]:
        averaged = max(given.begins) + Collective("all_reduce", model.nbytes).seconds(cluster)
        return [
            max(begin + compute, averaged) + given.work_seconds
            for begin, compute in zip(given.begins, given.computes, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Grouped(Timed):
    """``hierarchical``: gradients averaged inside groups of consecutive learners, weights exchanged between groups.

    Each member exchanges its share with the same member of other groups; afterwards the group gathers the shares.
    """

    topology: Topology
    group_size: int
    bucket_mb: float

    def bytes_sent(self, cluster: Cluster, model: ModelSize) -> float:
        share_bytes = model.nbytes / self.group_size
        between = mean_degree(Neighbours(self.topology), cluster.learners // self.group_size) * share_bytes
        inside = sum(all_reduce_bytes(each, self.group_size) for each in model.buckets(self.bucket_mb))
        return inside + between + (self.group_size - 1) * share_bytes

    def ends(self, cluster: Cluster, model: ModelSize, given: StepStart) -> list[float]:
        n, groups = self.group_size, cluster.learners // self.group_size
        members = [range(group * n, (group + 1) * n) for group in range(groups)]
        crossing = any(cluster.node_of(each[0]) != cluster.node_of(each[-1]) for each in members)
        buckets, between = model.buckets(self.bucket_mb), Neighbours(self.topology).recipients(groups, given.step)
        recipients = {
            group * n + member: [other * n + member for other in between[group]]
            for group in range(groups)
            for member in range(n)
        }
        seconds = cluster.exchange_seconds(recipients, model.nbytes / n)
        gather = cluster.all_gather_seconds(model.nbytes / n, n, crossing) if groups > 1 else 0.0
        ready = [max(given.begins[each] for each in own) for own in members]
        found = []
        for group, own in enumerate(members):
            partners = {other for other in range(groups) if group in between[other]} | set(between[group])
            averaged = bucketed_end(
                cluster,
                buckets,
                [given.begins[each] for each in own],
                [given.computes[each] for each in own],
                n,
                crossing,
            )
            met = max((ready[other] for other in partners), default=0.0)
            exchanged = max(ready[group], met) + max(seconds[each] for each in own)
            found += [max(averaged, exchanged) + gather + given.work_seconds] * n
        return found
