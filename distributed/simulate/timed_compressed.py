"""When the steps of schemes that compress gradients end, and what they send: messages between all learners after backward."""

from abc import abstractmethod
from dataclasses import dataclass

import torch

from distributed.schemes.powersgd import matrix_shape, worth_compressing
from distributed.simulate.cluster import Cluster
from distributed.simulate.model_size import ModelSize
from distributed.simulate.timed import AGREEMENT_BYTES, Collective, StepStart, Timed
from distributed.sparse.segments import MESSAGE_ALIGNMENT_BYTES
from distributed.values.selection import chunks, offset_dtype


class Compressed(Timed):
    """Schemes that send after backward what they have made of the gradients; subclasses list the messages."""

    @abstractmethod
    def messages(self, model: ModelSize, learners: int) -> list[Collective]:
        """What all learners do together, in order."""

    def bytes_sent(self, cluster: Cluster, model: ModelSize) -> float:
        return sum(each.bytes_sent(cluster.learners) for each in self.messages(model, cluster.learners))

    def ends(self, cluster: Cluster, model: ModelSize, given: StepStart) -> list[float]:
        begin = max(given.begins) + Collective("all_reduce", AGREEMENT_BYTES).seconds(cluster)
        end = begin + max(given.computes) + given.work_seconds
        end += sum(each.seconds(cluster) for each in self.messages(model, cluster.learners))
        return [end] * len(given.computes)


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
