"""One step of every scheme in lockstep, on the stacked weights and gradients of all learners.

A scheme says what a round makes of weights and gradients; how they travel is not its business. All arithmetic is that
of the real backends' own functions (distributed/gossip/mixing.py, distributed/sparse/segments.py, distributed/schemes/).
Learners that hold the same weights share one copy of them. Shapes: L learners, C copies, P elements.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from distributed.errors import UsageError
from distributed.gossip.codes import Code
from distributed.gossip.compressed_rounds import CompressedRounds
from distributed.gossip.mixing import mean_differences, mixed_differences, others
from distributed.gossip.topology import Topology
from distributed.schemes.half_allreduce import share_of_mean
from distributed.schemes.random_k import random_indices
from distributed.schemes.ssgd_noise import draw_noise
from distributed.sparse.segments import Index, Segment, add_entries, entries, largest_indices, remember, taken


class LockstepScheme(ABC):
    """What a step makes of all learners' weights and gradients."""

    clips_own: ClassVar[bool] = False
    """True where each learner clips its own gradient before it is compressed, and a bad one makes a bad step for all."""

    def copies(self, learners: int) -> int:
        """Number of different weights that ``learners`` hold."""
        return learners

    def copy_of(self, learners: int) -> list[int]:
        """Which copy each learner holds."""
        return list(range(learners))

    def points(self, weights_CP: Tensor, learners: int, step: int) -> Tensor:
        """Where each learner takes its gradient in ``step``, shape (L, P)."""
        return weights_CP[self.copy_of(learners)]

    def differences(self, snapshots_CP: Tensor, step: int) -> Tensor | None:
        """What mixing adds to the weights before the update, shape (C, P); None where nothing is mixed."""
        return None

    @abstractmethod
    def agreed(self, gradients_LP: Tensor, step: int) -> Tensor:
        """The gradients that optimizers see, shape (C, P)."""


class AllReduce(LockstepScheme):
    """g = (1/L) sum_i g_i at the same weights; with one learner ``backend=single``."""

    def copies(self, learners: int) -> int:
        return 1

    def copy_of(self, learners: int) -> list[int]:
        return [0] * learners

    def agreed(self, gradients_LP: Tensor, step: int) -> Tensor:
        return (gradients_LP / len(gradients_LP)).sum(0, keepdim=True)


@dataclass
class NoisyAllReduce(AllReduce):
    """w <- w - lr (1/L) sum_i g(w + n_i): SSGD* of arXiv 2112.01433, section 2."""

    sigma: float
    seed: int

    def points(self, weights_CP: Tensor, learners: int, step: int) -> Tensor:
        noise_LP = torch.empty_like(super().points(weights_CP, learners, step))
        for learner, noise_P in enumerate(noise_LP):
            draw_noise(noise_P, self.sigma, self.seed, step, learner)
        return noise_LP.add_(weights_CP[0])


@dataclass
class HalfAllReduce(AllReduce):
    """Gradients averaged in ``dtype``. Learners sum in another order here, which shows in the last digits of ``dtype``."""

    clips_own: ClassVar[bool] = True
    dtype: torch.dtype

    def agreed(self, gradients_LP: Tensor, step: int) -> Tensor:
        shares_LP = share_of_mean(gradients_LP.clone(), len(gradients_LP), self.dtype)
        total_P = shares_LP[0]
        for share_P in shares_LP[1:]:
            total_P = total_P + share_P
        return total_P.to(gradients_LP)[None]


@dataclass(kw_only=True)
class Sparse(AllReduce):
    """Sparse gradients with error feedback (distributed/sparse/error_feedback.py); subclasses choose the entries."""

    clips_own: ClassVar[bool] = True
    segments: Sequence[Segment]
    beta: float = 1.0
    in_bfloat16: bool = False
    warmup_steps: int = 0
    memory_LP: Tensor = field(default_factory=lambda: torch.zeros(0), init=False)

    @abstractmethod
    def chosen(self, gradients_LP: Tensor, step: int) -> list[list[Index]]:
        """The entries that each learner sends."""

    def agreed(self, gradients_LP: Tensor, step: int) -> Tensor:
        if step < self.warmup_steps:
            return super().agreed(gradients_LP, step)
        if self.memory_LP.shape != gradients_LP.shape:
            self.memory_LP = torch.zeros_like(gradients_LP)
        chosen, mean_P = self.chosen(gradients_LP, step), torch.zeros_like(gradients_LP[0])
        sent = [
            taken(self.segments, [memory_P], [gradient_P], indices, self.in_bfloat16)
            for memory_P, gradient_P, indices in zip(self.memory_LP, gradients_LP, chosen, strict=True)
        ]
        for indices, values in self._sums(chosen, [message for message, _ in sent]):
            add_entries([mean_P], entries(self.segments, indices, values.to(mean_P.dtype).div_(len(gradients_LP))))
        rows = zip(self.memory_LP, gradients_LP, chosen, sent, strict=True)
        for memory_P, gradient_P, indices, (_, unsent) in rows:
            remember([memory_P], [gradient_P], entries(self.segments, indices, unsent), self.beta)
        return mean_P[None]

    def _sums(self, chosen: Sequence[list[Index]], messages: Sequence[Tensor]) -> list[tuple[Sequence[Index], Tensor]]:
        """Entries and values that add up to the sum over learners: here all have chosen the same entries."""
        total = messages[0]
        for message in messages[1:]:
            total = total + message
        return [(chosen[0], total)]


@dataclass(kw_only=True)
class ScaleCom(Sparse):
    """All send the entries that learner step mod L chooses (arXiv 2104.11125, Algorithm 1)."""

    def chosen(self, gradients_LP: Tensor, step: int) -> list[list[Index]]:
        learners = len(gradients_LP)
        leader = step % learners
        return [largest_indices(self.segments, [self.memory_LP[leader]], [gradients_LP[leader]])] * learners


@dataclass(kw_only=True)
class LocalTopK(Sparse):
    """Each sends the entries that it chooses itself."""

    def chosen(self, gradients_LP: Tensor, step: int) -> list[list[Index]]:
        rows = zip(self.memory_LP, gradients_LP, strict=True)
        return [largest_indices(self.segments, [memory_P], [gradient_P]) for memory_P, gradient_P in rows]

    def _sums(self, chosen: Sequence[list[Index]], messages: Sequence[Tensor]) -> list[tuple[Sequence[Index], Tensor]]:
        return list(zip(chosen, messages, strict=True))


@dataclass(kw_only=True)
class RandomK(Sparse):
    """All send the same random entries."""

    seed: int

    def chosen(self, gradients_LP: Tensor, step: int) -> list[list[Index]]:
        return [random_indices(self.segments, self.seed, step, gradients_LP.device)] * len(gradients_LP)


class Gossip(LockstepScheme):
    """Every learner updates its own weights with its own gradient."""

    def agreed(self, gradients_LP: Tensor, step: int) -> Tensor:
        return gradients_LP


@dataclass
class Dpsgd(Gossip):
    """w_i <- w_i + sum_j T_ij (s_j - s_i) - lr g(s_i): arXiv 2112.01433, section 2."""

    topology: Topology

    def differences(self, snapshots_CP: Tensor, step: int) -> Tensor | None:
        return mixed_differences(snapshots_CP, self.topology, step)


class DelayByOne(Gossip):
    """w_i <- mean_j s_j - lr g(s_i): Algorithm 4 of arXiv 2110.11199."""

    def differences(self, snapshots_CP: Tensor, step: int) -> Tensor | None:
        return mean_differences(snapshots_CP)


@dataclass
class CompressedGossip(Gossip):
    """``dpsgd`` with ``compression``; with a complete topology ``delay_by_one`` with it.

    What learners send each other, and what they make of it, is the real rounds' own class (arXiv 1902.00340).
    """

    topology: Topology
    code: Code
    gamma: float | None = None  # None: the one that suits the code
    rounds: list[CompressedRounds] = field(default_factory=list, init=False)

    def differences(self, snapshots_CP: Tensor, step: int) -> Tensor | None:
        learners, to_all = len(snapshots_CP), self.topology.fixed
        if not self.rounds:
            self.rounds = [CompressedRounds(self.code, self.gamma, rank, to_all) for rank in range(learners)]
        rows = [others(self.topology.row(rank, learners, step), rank) for rank in range(learners)]
        columns = [others(self.topology.column(rank, learners, step), rank) for rank in range(learners)]
        sent = [
            rounds.begin([snapshot_P.clone()], row, column)[0]
            for rounds, snapshot_P, row, column in zip(self.rounds, snapshots_CP, rows, columns, strict=True)
        ]
        found_CP = torch.zeros_like(snapshots_CP)
        for rank, row in enumerate(rows):
            difference = self.rounds[rank].difference({sender: sent[sender][rank] for sender in row})
            if difference is not None:
                found_CP[rank] = difference[0]
        return found_CP


@dataclass
class Hierarchical(LockstepScheme):
    """Gradients averaged inside groups of ``group_size``, weights mixed between groups: arXiv 1907.05701, section 4."""

    topology: Topology
    group_size: int

    def copies(self, learners: int) -> int:
        if learners % self.group_size:
            raise UsageError(f"group_size={self.group_size} must divide the number of learners, got {learners}")
        return learners // self.group_size

    def copy_of(self, learners: int) -> list[int]:
        return [learner // self.group_size for learner in range(learners)]

    def differences(self, snapshots_CP: Tensor, step: int) -> Tensor | None:
        return mixed_differences(snapshots_CP, self.topology, step)

    def agreed(self, gradients_LP: Tensor, step: int) -> Tensor:
        return (gradients_LP / self.group_size).unflatten(0, (-1, self.group_size)).sum(1)
