"""Length perturbation: short spans of frames are dropped and blank frames inserted, so that no length is memorised.

Cui et al. 2022, "Improving generalization of deep neural network acoustic models with length perturbation and n-best
based label smoothing" (Interspeech), arXiv 2203.15176, section 2. Dropping comes first, each part has a probability of
its own. A blank frame is 0, the mean of normalised features; spans are dropped and inserted before deltas and stacking,
which then see speech of another length.

T feature frames   F mel bins   S spans
"""

from typing import ClassVar

import torch
from torch import Tensor

from asr.data.batch import RawBatch, Stage
from asr.hooks.epochs import Epochs, HookOfEpochs
from distributed.ranges import Count, Fraction, Natural


def drop_spans(features_TF: Tensor, starts_S: Tensor, lengths_S: Tensor) -> Tensor:
    """(T, F) without the frames ``start`` to ``start + length`` of every span; spans may overlap and reach past the end."""
    frames = len(features_TF)
    ends_S = (starts_S + lengths_S).clamp_(max=frames)
    edges = torch.bincount(starts_S, minlength=frames + 1) - torch.bincount(ends_S, minlength=frames + 1)
    kept = (edges[:frames].cumsum(0) == 0).nonzero().squeeze(1)
    return features_TF.index_select(0, kept)


def insert_blanks(features_TF: Tensor, after_S: Tensor, lengths_S: Tensor) -> Tensor:
    """(T, F) to (T + sum of lengths, F): behind frame ``after`` of every span so many frames of zeros."""
    widths_T = torch.ones(len(features_TF), dtype=torch.int64).index_add_(0, after_S, lengths_S)
    starts_T = widths_T.cumsum(0).sub_(widths_T)
    longer_TF = features_TF.new_zeros(len(features_TF) + int(lengths_S.sum()), features_TF.shape[1])
    return longer_TF.index_copy_(0, starts_T, features_TF)


def draw_spans(frames: int, ratio: float, longest: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw ``ratio * frames`` spans: starts (S,), all different, and lengths (S,), uniform on 1..longest."""
    spans = int(ratio * frames)
    starts_S = torch.randperm(frames, generator=generator)[:spans]
    return starts_S, torch.randint(1, longest + 1, (spans,), generator=generator)


class LengthPerturbation(HookOfEpochs):
    """Perturbs training utterances; the draws depend on (seed, epoch, utterance, the hook's name) alone.

    Args:
        drop_probability: probability of losing frames; ``drop_ratio`` of the frames begin a span of 1 to ``drop_span``.
        insert_probability: probability of gaining blank frames; ``insert_ratio`` and ``insert_span`` work likewise.
        from_epoch: the first epoch with perturbation, counted from 0.
        until_epoch: the first epoch without it again; None: never.
    """

    stage: ClassVar[Stage | None] = "normalised"

    def __init__(
        self,
        *,
        drop_probability: Fraction,
        drop_ratio: Fraction,
        drop_span: Count,
        insert_probability: Fraction,
        insert_ratio: Fraction,
        insert_span: Count,
        from_epoch: Natural,
        until_epoch: Natural | None,
    ) -> None:
        super().__init__(Epochs(from_epoch, until_epoch))
        self.drop_probability = drop_probability
        self.drop_ratio = drop_ratio
        self.drop_span = drop_span
        self.insert_probability = insert_probability
        self.insert_ratio = insert_ratio
        self.insert_span = insert_span

    @property
    def lengthens(self) -> float:
        """The largest lengthening, as a fraction: all inserted spans have full length and no frame is dropped."""
        return self.insert_ratio * self.insert_span if self.insert_probability > 0 else 0.0

    def on_batch(self, raw: RawBatch) -> None:
        if raw.epoch not in self.epochs:
            return
        before = sum(map(len, raw.signals))
        for position, features_TF in enumerate(raw.signals):
            raw.signals[position] = self.perturb(features_TF, raw.generator(position))
        raw.metrics[f"{raw.hook}/length_ratio"] = sum(map(len, raw.signals)) / before

    def perturb(self, features_TF: Tensor, generator: torch.Generator) -> Tensor:
        """Perturb one utterance (T, F); at least one frame stays."""
        drops, inserts = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        if drops < self.drop_probability:
            spans = draw_spans(len(features_TF), self.drop_ratio, self.drop_span, generator)
            left_TF = drop_spans(features_TF, *spans)
            features_TF = left_TF if len(left_TF) else features_TF
        if inserts < self.insert_probability:
            spans = draw_spans(len(features_TF), self.insert_ratio, self.insert_span, generator)
            features_TF = insert_blanks(features_TF, *spans)
        return features_TF
