"""ScaleCom: all learners send the entries that one of them chooses, so that traffic does not grow with their number.

    leader = step mod L        the leader sends the offsets of the largest |m + g| of each chunk of its own
    g = (1/L) sum_i p_i        at these positions alone: a dense all-reduce of k values, no union of index sets

Since all send the same positions, the mean of what is selected is what is selected of the mean. The memories of
learners resemble each other, so that the leader's choice is nearly as good as the largest entries of the mean. One
broadcast of offsets and one all-reduce of values, the dense parameters among them, per step; or per bucket of
parameters, while backward still runs (distributed/sparse/overlap.py).
Source: arXiv 2104.11125, Algorithm 1; memory and its filter in distributed/sparse/error_feedback.py.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.distributed import Work

from distributed.backend import GradientReport
from distributed.errors import UsageError
from distributed.learners.world import World
from distributed.ranges import Count, Natural, Positive
from distributed.sparse.ages import Ages
from distributed.sparse.error_feedback import Beta, Rate, SparseFeedback, Values, copy_views
from distributed.sparse.overlap import Filling, OverlappedStep, Sent
from distributed.sparse.segments import (
    EVERYTHING,
    Entries,
    Index,
    Offsets,
    Segment,
    elements_sent_whole,
    entries,
    largest_offsets,
)
from distributed.sparse.selection_figures import contraction, index_overlap, mean_cosine, union, units

MIB = 2**20


class ScaleCom(SparseFeedback):
    """Cyclic local top-k, chunk by chunk, with filtered error feedback.

    With ``overlap`` the gradient is cut into buckets of ``bucket_mb`` MiB, the last parameters first, and each is selected
    and sent as soon as the last backward of a step has filled it. Clipping would need the whole norm before that.
    """

    def __init__(
        self,
        *,
        rate: Rate,
        rates: list[tuple[str, int]],
        values: Values,
        beta: Beta,
        warmup_steps: Natural,
        refresh_moments: Count | None,
        refresh_batches: Count,
        overlap: bool,
        bucket_mb: Positive,
        world: World,
    ) -> None:
        super().__init__(
            rate=rate,
            rates=rates,
            values=values,
            beta=beta,
            warmup_steps=warmup_steps,
            refresh_moments=refresh_moments,
            refresh_batches=refresh_batches,
            world=world,
        )
        self.overlap = overlap
        self.bucket_mb = bucket_mb
        self.ages: Ages | None = None  # None until count_ages is called
        self._filling: Filling | None = None
        self._overlapped: OverlappedStep | None = None  # the current step where it sends during backward, else None

    @property
    def leader(self) -> int:
        """Rank of the learner whose choice of entries all send in the current step."""
        return self.step % self.world.size

    # Overlap with backward

    def check_clipping(self, max_norm: float | None) -> None:
        if self.overlap and max_norm is not None:
            raise UsageError(
                f"backend.overlap=true sends gradients before their norm is known, so that trainer.max_norm={max_norm:g} "
                "cannot clip them: set trainer.max_norm=null, or backend.overlap=false"
            )

    def begin_step(self, local_weight: float, planned_weight: float) -> float:
        divisor = super().begin_step(local_weight, planned_weight)
        if self._filling is not None and not self.sends_dense:
            buckets = [[s for s in self.segments if s.bucket == place] for place in range(self._filling.buckets)]
            self._overlapped = OverlappedStep(buckets, self)
            self._filling.start(self._overlapped.advance)
        return divisor

    def accumulating(self) -> AbstractContextManager[None]:
        return nullcontext() if self._filling is None else self._filling.paused()

    def reduce_gradients(self, max_norm: float | None) -> GradientReport:
        self.check_clipping(max_norm)
        if self._filling is not None:
            self._filling.stop()
        return super().reduce_gradients(max_norm)

    @torch.no_grad()
    def _reduce(self, usable: bool) -> bool:
        if self._overlapped is None:
            return super()._reduce(usable)
        found, self._overlapped = self._overlapped.finish(usable), None
        agreed, unsent = [], []
        for sent in found:
            mean = self._mean_of(sent.message, self._dtype)
            if mean is None:
                return False
            agreed += entries(sent.segments, sent.indices, mean)
            unsent += entries(sent.segments, sent.indices, sent.unsent)
        self._apply(unsent, agreed)
        self._note_sent([segment for segment, *_ in agreed], [index for _, index, _ in agreed])
        return True

    def start_offsets(self, segments: Sequence[Segment]) -> tuple[Offsets, Work | None]:
        """Start to broadcast the leader's choice of entries of ``segments``."""
        offsets = self._own_offsets(segments)
        return offsets, self.exchange.start_broadcast_indices(offsets.message, self.leader)

    @torch.no_grad()
    def start_values(self, segments: Sequence[Segment], indices: list[Index], usable: bool) -> Sent:
        """Start to sum over learners the values at ``indices``; NaN where the gradient is not ``usable``."""
        message, unsent = self._taken(segments, indices)
        if not usable:
            message.fill_(torch.nan)
        work = self.exchange.start_all_reduce_sum(message, elements_sent_whole(segments))
        return Sent(segments, indices, message, unsent, work)

    def wait(self, work: Work | None) -> None:
        """Wait until a started collective has ended."""
        self.exchange.wait(work)

    def _buckets(self, trained: Sequence[str]) -> dict[str, int]:
        """Bucket of each parameter; with overlap, buckets of ``bucket_mb`` MiB from the last parameter on.

        Backward computes the gradients of the last parameters first, so that their bucket can be sent first.
        """
        if not self.overlap:
            return super()._buckets(trained)
        buckets, filled_bytes, place = {}, 0, 0
        for name in reversed(trained):
            if filled_bytes >= self.bucket_mb * MIB:
                filled_bytes, place = 0, place + 1
            buckets[name] = place
            filled_bytes += self._named[name].nbytes
        return buckets

    def close(self) -> None:
        if self._filling is not None:
            self._filling.remove()
            self._filling = None

    # Selection

    def _lay_out(self) -> None:
        before = self._flat
        super()._lay_out()
        self.close()
        if self.overlap:
            self._filling = Filling(self._buckets(list(self.rates_found)), self._named)
        if self.ages is not None and before is not None:
            sent_at, self.ages.sent_at = self.ages.sent_at, Ages(self.flat.flat_grad).sent_at
            copy_views(before.named_views(sent_at), self.flat.named_views(self.ages.sent_at))

    def _select(self, memory: Sequence[Tensor], gradient: Sequence[Tensor]) -> list[Index]:
        offsets = self._own_offsets(self.segments)
        return offsets.indices(self.exchange.broadcast_indices(offsets.message, self.leader))

    def _own_offsets(self, segments: Sequence[Segment]) -> Offsets:
        """The offsets that this learner chooses if it is the leader, else an empty message to receive them."""
        offsets = Offsets(segments, self.memory[0].device)
        if self.world.rank == self.leader:
            offsets.write(largest_offsets(segments, self.memory, self.flat.flat_grad))
        return offsets

    def _agree(self, indices: Sequence[Index], message: Tensor, usable: bool) -> list[Entries] | None:
        agreed = super()._agree(indices, message, usable)
        if agreed is not None:
            self._note_sent(self.segments, indices)
        return agreed

    def _average_all(self, usable: bool) -> bool:
        finite = super()._average_all(usable)
        if finite:
            self._note_sent(self.segments, [EVERYTHING] * len(self.segments))
        return finite

    def _note_sent(self, segments: Sequence[Segment], indices: Sequence[Index]) -> None:
        if self.ages is not None:
            self.ages.after_step(segments, indices)

    def count_ages(self) -> None:
        """Record from now on when each entry was last sent; ``selection_figures`` then reports how long entries wait.

        Checkpoints do not contain the ages, which would take as much space as the memory: a resumed run counts anew.
        """
        self.ages = Ages(self.flat.flat_grad)

    def mean_memory(self) -> Tensor:
        """The mean of the learners' memories, in the order of the model's parameters, shape (trainable elements,); collective."""
        views = self.flat.named_views(self.memory)
        own = [views[name].reshape(-1) for name, p in self.model.named_parameters() if p.requires_grad]
        return self.world.average(torch.cat(own))

    @torch.no_grad()
    def selection_figures(self, gradient: Tensor) -> dict[str, float]:
        """Metrics of the quality of the next leader's choice, were ``gradient`` this learner's next; no side effects.

        Collective. ``gradient``: clipped, shape (trainable elements,), in the order of the model's parameters. Metrics
        under ``comm/*``, over the compressed parameters (empty where there are none), equal on all learners but for the
        seconds that the learner's own choice took.
        """
        sparse = [segment for segment in self.segments if segment.rate != 1]
        if not sparse:
            return {}
        own = self._laid_out(gradient)
        started = _now(gradient.device)
        offsets = Offsets(self.segments, gradient.device)
        offsets.write(largest_offsets(self.segments, self.memory, own))
        seconds = _now(gradient.device) - started
        local = _positions(offsets.indices(offsets.message))
        leader = _positions(offsets.indices(self.world.broadcast(offsets.message, self.leader)))
        learners, total = self.world.size, self.world.all_reduce_sum
        means = [total(segment.of(self.memory) + segment.of(own)).div_(learners) for segment in sparse]
        choices = [total(torch.zeros_like(mean).index_fill_(0, at, 1.0)) for mean, at in zip(means, local, strict=True)]
        directions = units([segment.of(self.memory) for segment in sparse])
        remembers = any(bool(part.any()) for part in directions)
        remembering = int(total(torch.tensor([float(remembers)], device=gradient.device)).item())
        resemblance = [total(part) for part in directions]
        return {
            "comm/index_overlap": index_overlap(leader, means),
            "comm/contraction": contraction(leader, means),
            "comm/memory_cosine": mean_cosine(resemblance, remembering),
            "comm/local_union": union(choices, leader),
            "comm/selection_seconds": seconds,
            **self._age_figures(),
        }

    def _age_figures(self) -> dict[str, float]:
        """Metrics of the ages of compressed entries; the padding between parameters is left out."""
        if self.ages is None:
            return {}
        views = self.flat.named_views(self.ages.sent_at)
        return self.ages.figures([view for name, view in views.items() if self.rates_found.get(name, 1) != 1])

    def _laid_out(self, gradient: Tensor) -> list[Tensor]:
        """Rearrange a gradient in the order of the model's parameters into the layout of the flat buffers."""
        flat = [torch.zeros_like(buffer) for buffer in self.flat.flat_grad]
        views = self.flat.named_views(flat)
        trained = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        for (name, p), part in zip(trained, gradient.split([p.numel() for _, p in trained]), strict=True):
            views[name].copy_(part.view_as(p))
        return flat


def _now(device: torch.device) -> float:
    """Clock reading in seconds, after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _positions(indices: Sequence[Index]) -> list[Tensor]:
    """The positions of the sparse segments; dense ones have none."""
    return [index for index in indices if isinstance(index, Tensor)]
