"""ScaleCom: all learners send the entries that one of them chooses, so that traffic does not grow with their number.

    leader = step mod L        the leader sends the offsets of the largest |m + g| of each chunk of its own
    g = (1/L) sum_i p_i        at these positions alone: a dense all-reduce of k values, no union of index sets

Since all send the same positions, the mean of what is selected is what is selected of the mean. The memories of
learners resemble each other, so that the leader's choice is nearly as good as the largest entries of the mean. One
broadcast of offsets and one all-reduce of values, the dense parameters among them, per step.
Source: arXiv 2104.11125, Algorithm 1; memory and its filter in distributed/error_feedback.py.
"""

from collections.abc import Sequence

from torch import Tensor

from distributed.error_feedback import Beta, SparseFeedback, Values
from distributed.launch import World
from distributed.ranges import Count, Natural
from distributed.segments import Entries, Index, Offsets, Segment, entries
from distributed.selection import largest_of_chunks


class ScaleCom(SparseFeedback):
    """Cyclic local top-k, chunk by chunk, with filtered error feedback."""

    def __init__(
        self,
        *,
        rate: Count,
        rates: list[tuple[str, int]],
        values: Values,
        beta: Beta,
        warmup_steps: Natural,
        world: World,
    ) -> None:
        super().__init__(rate=rate, rates=rates, values=values, beta=beta, warmup_steps=warmup_steps, world=world)

    @property
    def leader(self) -> int:
        """Whose choice the current step follows."""
        return self.step % self.world.size

    def _select(self, memory: Sequence[Tensor], gradient: Sequence[Tensor]) -> list[Index]:
        offsets = Offsets(self.segments, gradient[0].device)
        if self.world.rank == self.leader:
            offsets.write(largest_offsets(self.segments, memory, gradient))
        return offsets.indices(self.exchange.broadcast(offsets.message, self.leader))

    def _agree(self, indices: Sequence[Index], message: Tensor, usable: bool) -> list[Entries] | None:
        return entries(self.segments, indices, message) if self._average(message, usable) else None


def largest_offsets(segments: Sequence[Segment], memory: Sequence[Tensor], gradient: Sequence[Tensor]) -> list[Tensor]:
    """Of each sparse segment the offsets (k,) of the largest |m + g| of its chunks."""
    return [
        largest_of_chunks(segment.of(memory), segment.of(gradient), segment.rate)
        for segment in segments
        if segment.rate != 1
    ]
