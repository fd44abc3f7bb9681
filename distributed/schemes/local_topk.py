"""Local top-k: every learner sends its own largest entries, which all gather. A baseline: its traffic grows with L.

    g  =  (1/L) sum_i p_i at positions of learner i's own        positions and values of all learners travel to all

The union of the learners' positions grows with their number, and with it what everybody receives. Entries are chosen
chunk by chunk as in ``distributed/schemes/scalecom.py``, so that the two differ in whose choice counts alone. The classic error
feedback of sparsified SGD (Stich et al. 2018, arXiv 1809.07599), gathered as in Deep Gradient Compression (arXiv
1712.01887).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from distributed.sparse.error_feedback import SparseFeedback
from distributed.sparse.segments import EVERYTHING, Entries, Index, Offsets, entries, largest_offsets


class LocalTopK(SparseFeedback):
    """Dense segments are averaged by all-reduce; of the others values and offsets are gathered."""

    _offsets: Offsets | None = None  # layout of the offsets chosen in this step

    def _select(self, memory: Sequence[Tensor], gradient: Sequence[Tensor]) -> list[Index]:
        self._offsets = Offsets(self.segments, gradient[0].device)
        self._offsets.write(largest_offsets(self.segments, memory, gradient))
        return self._offsets.indices(self._offsets.message)

    def _agree(self, indices: Sequence[Index], message: Tensor, usable: bool) -> list[Entries] | None:
        assert self._offsets is not None
        dense = [segment for segment in self.segments if segment.rate == 1]
        sparse = [segment for segment in self.segments if segment.rate != 1]
        own = entries(self.segments, indices, message)
        whole, chosen = (
            torch.cat([message[:0], *(values for segment, _, values in own if segment in group)])
            for group in (dense, sparse)
        )
        gathered = self.exchange.all_gather_values(chosen if usable else chosen.fill_(torch.nan))
        offsets = self.exchange.all_gather_indices(self._offsets.message)
        mean = self._average(whole, usable, whole.numel(), self._dtype)
        shares = self._mean_of(gathered, self._dtype)
        if mean is None or shares is None:
            return None
        found = entries(dense, [EVERYTHING] * len(dense), mean)
        for theirs, values in zip(offsets, shares, strict=True):
            places = self._offsets.indices(theirs)
            found += entries(sparse, [index for index in places if isinstance(index, Tensor)], values)
        return found
