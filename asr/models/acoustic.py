"""The deep bidirectional LSTM acoustic model of a hybrid recogniser (arXiv 2110.11199, section IV; 2108.12074, section 4).

An encoder at the frame rate, a linear bottleneck and a linear layer give every frame a class; the loss is the cross
entropy to the classes of a forced alignment, summed over frames. As in the papers the LSTM sees segments of
``unroll_frames`` frames that do not overlap, each from a fresh state. They are rows of one batch: no loop runs over
them, and the last, shorter one of an utterance is masked like any padding.

B utterances   T frames   F feature dimension   L frames of a segment   M = B x ceil(T / L) segments
D state dimension   N frames with a target   V classes
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.data.batch import IGNORED, Batch
from asr.models.encoder import Encoder, padding_mask
from asr.models.speech_model import LossOutput, SpeechModel
from distributed.errors import UsageError
from distributed.ranges import Count


class AcousticModel(SpeechModel):
    """Encoder, bottleneck and output layer; ``unroll_frames`` None sees whole utterances."""

    has_lattice = False
    reads_frame_targets = True
    subsampling = 1

    def __init__(self, *, encoder: Encoder, bottleneck: Count, num_targets: Count, unroll_frames: Count | None) -> None:
        super().__init__()
        if encoder.subsampling != 1:
            raise UsageError(
                f"model.encoder must keep the frame rate, got 1 state for {encoder.subsampling} frames: every frame has "
                "a target; set model.encoder.stack=1, and features.stack for longer frames"
            )
        self.encoder = encoder
        self.bottleneck = nn.Linear(encoder.dimension, bottleneck)
        self.output = nn.Linear(bottleneck, num_targets)
        self.unroll_frames = unroll_frames

    def forward(self, batch: Batch) -> LossOutput:
        """Cross entropy summed over all frames that have a target; wrong frames are counted in its terms."""
        if batch.features.shape[0] == 0:
            return LossOutput(self.nothing(), batch.weight)
        assert batch.frame_targets is not None
        states_BTD = self.states(batch.features, batch.feature_lengths)
        given_BT = batch.frame_targets != IGNORED  # padding has none
        logits_NV, targets_N = self.logits(states_BTD[given_BT]), batch.frame_targets[given_BT]
        with torch.autocast(logits_NV.device.type, enabled=False):
            logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
            total = functional.cross_entropy(logits_NV, targets_N, reduction="sum")
        wrong = (logits_NV.argmax(-1) != targets_N).sum()
        terms = {"frame_errors": wrong.to(total.dtype), "frames": given_BT.sum().to(total.dtype)}
        return LossOutput(total, batch.weight, terms, states_BTD)

    def logits(self, states_D: Tensor) -> Tensor:
        """Scores (..., V) of the classes, for states (..., D)."""
        scores_V: Tensor = self.output(self.bottleneck(states_D))
        return scores_V

    def states(self, features_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        """Encoder states (B, T, D), zero beyond the utterances' ends."""
        if self.unroll_frames is None:
            states_BTD, _ = self.encoder(features_BTF, lengths_B)
            return states_BTD
        padding_BT1 = padding_mask(lengths_B, features_BTF.shape[1]).unsqueeze(-1)
        segments_MLF, lengths_M = segments(features_BTF.masked_fill(padding_BT1, 0.0), lengths_B, self.unroll_frames)
        states_MLD, _ = self.encoder(segments_MLF, lengths_M)
        states_BTD = states_MLD.unflatten(0, (len(lengths_B), -1)).flatten(1, 2)[:, : features_BTF.shape[1]]
        return states_BTD.masked_fill(padding_BT1, 0.0)


def segments(features_BTF: Tensor, lengths_B: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Cut utterances into segments (M, L, F) of ``frames`` = L frames, with their lengths (M,).

    A segment that lies wholly beyond its utterance's end has length 1: encoders take none that is empty.
    """
    filled_BTF = functional.pad(features_BTF, (0, 0, 0, -features_BTF.shape[1] % frames))
    segments_MLF = filled_BTF.unflatten(1, (-1, frames)).flatten(0, 1)
    begin_S = torch.arange(0, filled_BTF.shape[1], frames, device=lengths_B.device)
    return segments_MLF, (lengths_B.unsqueeze(1) - begin_S).clamp(1, frames).flatten()


def acoustic_model(
    *,
    encoder: Callable[..., Encoder],
    bottleneck: Count,
    num_targets: Count | None,
    unroll_frames: Count | None,
    vocabulary_size: int,
    feature_dimension: int,
) -> AcousticModel:
    """Build the model of a configuration; ``num_targets`` None: one class per symbol of the tokenizer, blank included.

    Initial weights are drawn in the order encoder, bottleneck, output layer.
    """
    if num_targets is not None and num_targets < vocabulary_size:
        raise UsageError(
            f"model.num_targets must be at least {vocabulary_size}, the tokenizer's symbols with blank, which targets "
            f"are made of, got {num_targets}; null takes as many"
        )
    return AcousticModel(
        encoder=encoder(feature_dimension=feature_dimension),
        bottleneck=bottleneck,
        num_targets=num_targets or vocabulary_size,
        unroll_frames=unroll_frames,
    )
