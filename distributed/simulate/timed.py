"""When the steps of schemes in lockstep begin and end, and what they send.

Every scheme is the list of its messages, from which come both its bytes and its seconds, and the rule of who waits for
whom. Per step and learner: ``begins`` are when each learner begins, ``computes`` the seconds of its computation, of which
backward is the last two thirds. ``work_seconds`` is what the scheme itself computes: copies, selection, folding.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from distributed.gossip.mixing import others
from distributed.gossip.topology import Topology
from distributed.learners.traffic import all_reduce_bytes
from distributed.schemes.powersgd import matrix_shape, worth_compressing
from distributed.simulate.cluster import Cluster
from distributed.simulate.model_size import ModelSize, filled_shares
from distributed.sparse.segments import MESSAGE_ALIGNMENT_BYTES
from distributed.sparse.selection import chunks, offset_dtype

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


class Timed(ABC):
    """A scheme in lockstep."""

    @abstractmethod
    def bytes_sent(self, cluster: Cluster, model: ModelSize) -> float:
        """Bytes that a learner sends for the exchange of a step, the mean over learners."""

    @abstractmethod
    def ends(
        self,
        cluster: Cluster,
        model: ModelSize,
        begins: Sequence[float],
        computes: Sequence[float],
        work_seconds: float,
        step: int,
    ) -> list[float]:
        """When each learner ends the step."""  # fmt: skip


class Alone(Timed):
    """``backend=single``, and computation alone: nobody waits for anybody."""

    def bytes_sent(self, cluster: Cluster, model: ModelSize) -> float:
        return 0.0

    def ends(
        self, cluster: Cluster, model: ModelSize, begins: Sequence[float], computes: Sequence[float],
        work_seconds: float, step: int,
    ) -> list[float]:  # fmt: skip
        return [begin + compute + work_seconds for begin, compute in zip(begins, computes, strict=True)]


@dataclass(frozen=True, slots=True)
class Averaged(Timed):
    """``allreduce``, ``ssgd_noise``: gradients averaged bucket by bucket while backward still runs."""

    bucket_mb: float

    def bytes_sent(self, cluster: Cluster, model: ModelSize) -> float:
        return sum(all_reduce_bytes(each, cluster.learners) for each in model.buckets(self.bucket_mb))

    def ends(
        self, cluster: Cluster, model: ModelSize, begins: Sequence[float], computes: Sequence[float],
        work_seconds: float, step: int,
    ) -> list[float]:  # fmt: skip
        begin = max(begins) + Collective("all_reduce", AGREEMENT_BYTES).seconds(cluster)
        end = bucketed_end(
            cluster,
            model.buckets(self.bucket_mb),
            [begin] * len(computes),
            computes,
            cluster.learners,
            cluster.nodes > 1,
        )
        return [end + work_seconds] * len(computes)


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


class Compressed(Timed):
    """Schemes that send after backward what they have made of the gradients; subclasses list the messages."""

    @abstractmethod
    def messages(self, model: ModelSize, learners: int) -> list[Collective]:
        """What all learners do together, in order."""

    def bytes_sent(self, cluster: Cluster, model: ModelSize) -> float:
        return sum(each.bytes_sent(cluster.learners) for each in self.messages(model, cluster.learners))

    def ends(
        self, cluster: Cluster, model: ModelSize, begins: Sequence[float], computes: Sequence[float],
        work_seconds: float, step: int,
    ) -> list[float]:  # fmt: skip
        begin = max(begins) + Collective("all_reduce", AGREEMENT_BYTES).seconds(cluster)
        end = begin + max(computes) + work_seconds
        end += sum(each.seconds(cluster) for each in self.messages(model, cluster.learners))
        return [end] * len(computes)


@dataclass(frozen=True, slots=True)
class Half(Compressed):
    """``half_allreduce``."""

    def messages(self, model: ModelSize, learners: int) -> list[Collective]:
        return [Collective("all_reduce", model.parameters * 2)]


@dataclass(frozen=True, slots=True)
class SparseSizes:
    """One entry in ``rate`` of all tensors of two dimensions or more; the others whole."""

    rate: int
    value_bytes: int  # of a value that is sent; 2 for bfloat16

    def chosen(self, model: ModelSize) -> int:
        """Entries chosen by their size."""
        return chunks(model.parameters - model.vectors, self.rate)

    def dense_bytes(self, model: ModelSize) -> int:
        """Bytes of what is sent whole."""
        return model.vectors * self.value_bytes

    def offset_bytes(self, model: ModelSize) -> int:
        """Bytes of the offsets of chosen entries, as one message of distributed/sparse/segments.py."""
        length = self.chosen(model) * offset_dtype(self.rate).itemsize
        return -(-length // MESSAGE_ALIGNMENT_BYTES) * MESSAGE_ALIGNMENT_BYTES


@dataclass(frozen=True, slots=True)
class CommonEntries(Compressed):
    """``scalecom`` (a leader broadcasts offsets) and ``random_k`` (nobody does): one all-reduce of values."""

    sizes: SparseSizes
    broadcasts: bool

    def messages(self, model: ModelSize, learners: int) -> list[Collective]:
        values = self.sizes.chosen(model) * self.sizes.value_bytes + self.sizes.dense_bytes(model)
        offsets = [Collective("broadcast", self.sizes.offset_bytes(model))] if self.broadcasts else []
        return [*offsets, Collective("all_reduce", values)]


@dataclass(frozen=True, slots=True)
class OwnEntries(Compressed):
    """``local_topk``: values and offsets of all learners go to all."""

    sizes: SparseSizes

    def messages(self, model: ModelSize, learners: int) -> list[Collective]:
        return [
            Collective("all_gather", self.sizes.chosen(model) * self.sizes.value_bytes),
            Collective("all_gather", self.sizes.offset_bytes(model)),
            Collective("all_reduce", self.sizes.dense_bytes(model)),
        ]


@dataclass(frozen=True, slots=True)
class LowRank(Compressed):
    """``powersgd``: all that is not compressed with the left factors, then the right ones."""

    rank: int
    min_rate: float

    def messages(self, model: ModelSize, learners: int) -> list[Collective]:
        left = right = rest = 0
        for shape in map(torch.Size, model.shapes):
            rows, columns = matrix_shape(shape)
            if worth_compressing(shape, self.rank, self.min_rate):
                rank = min(self.rank, rows, columns)
                left, right = left + rows * rank, right + columns * rank
            else:
                rest += shape.numel()
        sizes = (left + rest, right)
        return [Collective("all_reduce", size * model.element_bytes) for size in sizes]


@dataclass(frozen=True, slots=True)
class Neighbours(Timed):
    """``dpsgd``: weights travel while the gradient is computed, and a learner waits for its neighbours alone."""

    topology: Topology

    def recipients(self, size: int, step: int) -> dict[int, list[int]]:
        """To whom each learner sends in a step."""
        return {rank: list(others(self.topology.column(rank, size, step), rank)) for rank in range(size)}

    def bytes_sent(self, cluster: Cluster, model: ModelSize) -> float:
        return mean_degree(self, cluster.learners) * model.nbytes

    def ends(
        self, cluster: Cluster, model: ModelSize, begins: Sequence[float], computes: Sequence[float],
        work_seconds: float, step: int,
    ) -> list[float]:  # fmt: skip
        recipients = self.recipients(cluster.learners, step)
        seconds = cluster.exchange_seconds(recipients, model.nbytes)
        ready = list(begins)
        for sender, receivers in recipients.items():
            for receiver in receivers:  # a message needs both its ends
                ready[receiver] = max(ready[receiver], begins[sender])
                ready[sender] = max(ready[sender], begins[receiver])
        return [
            max(begin + compute, ready[rank] + seconds[rank]) + work_seconds
            for rank, (begin, compute) in enumerate(zip(begins, computes, strict=True))
        ]


def mean_degree(scheme: Neighbours, size: int) -> float:
    """Messages that a learner sends per round, the mean over learners and ``ROUNDS`` rounds."""
    found = [len(receivers) for step in range(ROUNDS) for receivers in scheme.recipients(size, step).values()]
    return sum(found) / len(found)


class Delayed(Timed):
    """``delay_by_one``: weights of all are averaged while the gradient is computed."""

    def bytes_sent(self, cluster: Cluster, model: ModelSize) -> float:
        return all_reduce_bytes(model.nbytes, cluster.learners)

    def ends(
        self, cluster: Cluster, model: ModelSize, begins: Sequence[float], computes: Sequence[float],
        work_seconds: float, step: int,
    ) -> list[float]:  # fmt: skip
        averaged = max(begins) + Collective("all_reduce", model.nbytes).seconds(cluster)
        return [max(begin + compute, averaged) + work_seconds for begin, compute in zip(begins, computes, strict=True)]


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

    def ends(
        self, cluster: Cluster, model: ModelSize, begins: Sequence[float], computes: Sequence[float],
        work_seconds: float, step: int,
    ) -> list[float]:  # fmt: skip
        n, groups = self.group_size, cluster.learners // self.group_size
        members = [range(group * n, (group + 1) * n) for group in range(groups)]
        crossing = any(cluster.node_of(each[0]) != cluster.node_of(each[-1]) for each in members)
        buckets, between = model.buckets(self.bucket_mb), Neighbours(self.topology).recipients(groups, step)
        recipients = {
            group * n + member: [other * n + member for other in between[group]]
            for group in range(groups)
            for member in range(n)
        }
        seconds = cluster.exchange_seconds(recipients, model.nbytes / n)
        gather = cluster.all_gather_seconds(model.nbytes / n, n, crossing) if groups > 1 else 0.0
        ready = [max(begins[each] for each in own) for own in members]
        found = []
        for group, own in enumerate(members):
            partners = {other for other in range(groups) if group in between[other]} | set(between[group])
            averaged = bucketed_end(
                cluster, buckets, [begins[each] for each in own], [computes[each] for each in own], n, crossing
            )
            met = max((ready[other] for other in partners), default=0.0)
            exchanged = max(ready[group], met) + max(seconds[each] for each in own)
            found += [max(averaged, exchanged) + gather + work_seconds] * n
        return found
