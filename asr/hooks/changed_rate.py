"""Base of hooks that make speech faster and slower: every epoch draws one of several versions of each utterance."""

from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from asr.data.batch import RawBatch, Stage
from asr.training.hook import Hook
from distributed.ranges import Range

Factor = Annotated[float, Range(low=0.5, high=2.0)]
Version = tuple[float, Callable[[Tensor], Tensor]]  # the factor by which it is faster, and how (samples,) become it


class ChangedRate(Hook):
    """Gives every training utterance one of the equally likely versions, drawn anew in every epoch."""

    stage: ClassVar[Stage | None] = "waveform"

    def __init__(self, versions: Sequence[Version]) -> None:
        self.versions = list(versions)

    @property
    def lengthens(self) -> float:
        """The fraction by which the slowest version lengthens an utterance."""
        return max(0.0, 1.0 / min(factor for factor, _ in self.versions) - 1.0)

    def on_batch(self, raw: RawBatch) -> None:
        for position, waveform in enumerate(raw.signals):
            chosen = int(torch.randint(len(self.versions), (), generator=raw.generator(position)))
            _, change = self.versions[chosen]
            raw.signals[position] = change(waveform)
