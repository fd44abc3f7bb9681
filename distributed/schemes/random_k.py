"""Random-k: one random entry of each chunk, the same on all learners, so that no positions are sent.

The cheapest traffic of all sparse schemes, and a floor for what choosing by magnitude must gain. With error feedback as
in Stich et al. 2018 (arXiv 1809.07599); which entries are sent depends on (seed, step) alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from distributed.keyed import keyed_seed
from distributed.learners.world import World
from distributed.ranges import Count, Natural
from distributed.sparse.error_feedback import Beta, Rate, SparseFeedback, Values
from distributed.sparse.segments import EVERYTHING, Index, Segment
from distributed.values.selection import positions_of


class RandomK(SparseFeedback):
    """Each chunk of ``rate`` entries sends one of them, drawn anew in every step."""

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
        seed: int,
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
        self.seed = seed

    def _select(self, memory: Sequence[Tensor], gradient: Sequence[Tensor]) -> list[Index]:
        return random_indices(self.segments, self.seed, self.step, gradient[0].device)


def random_indices(segments: Sequence[Segment], seed: int, step: int, device: torch.device) -> list[Index]:
    """The entries of each segment that all learners send in a step."""
    generator = torch.Generator().manual_seed(keyed_seed(seed, "random k", step))
    return [
        EVERYTHING if segment.rate == 1 else random_positions(segment, generator).to(device) for segment in segments
    ]


def random_positions(segment: Segment, generator: torch.Generator) -> Tensor:
    """Positions (k,), one drawn uniformly from each chunk."""
    offsets = torch.randint(segment.rate, (segment.chosen,), generator=generator)
    if segment.chosen:
        last_chunk = segment.length - (segment.chosen - 1) * segment.rate
        offsets[-1] = torch.randint(last_chunk, (), generator=generator)
    return positions_of(offsets, segment.rate)
