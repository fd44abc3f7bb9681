"""For how long entries of compressed gradients wait: the steps since each was last sent.

    age = steps since an entry was sent, 0 where the last step sent it; of one never sent, since ages are counted

Where all entries of a chunk took turns, ages would be spread evenly below ``rate``; an entry that is far older is hardly
ever the largest of its chunk. Skipped steps do not count. It costs four bytes per entry, and one write per sent entry.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distributed.sparse.segments import Index, Segment

PARTS = {"p50": 0.5, "p95": 0.95, "max": 1.0}  # percentiles, as the fraction of entries of at most that age


class Ages:
    """When each entry of ``buffers`` was last sent, in steps since ages are counted."""

    def __init__(self, buffers: Sequence[Tensor]) -> None:
        self.steps = 0
        self.sent_at = [torch.zeros_like(buffer, dtype=torch.int32) for buffer in buffers]

    def after_step(self, segments: Sequence[Segment], indices: Sequence[Index]) -> None:
        """Record the entries that a step has sent of each segment."""
        self.steps += 1
        for segment, index in zip(segments, indices, strict=True):
            segment.of(self.sent_at)[index] = self.steps

    def figures(self, sent_at: Sequence[Tensor]) -> dict[str, float]:
        """``comm/age_*``: percentiles (nearest rank) and maximum of ages of ``sent_at``, parts of ``self.sent_at``."""
        entries_by_age = torch.bincount(self.steps - torch.cat([part.flatten() for part in sent_at]))
        younger = entries_by_age.cumsum(0)
        ranks = torch.tensor([math.ceil(part * int(younger[-1])) for part in PARTS.values()], device=younger.device)
        ages = torch.searchsorted(younger, ranks).tolist()
        return {f"comm/age_{name}": float(age) for name, age in zip(PARTS, ages, strict=True)}
