"""One step of the beam search: all hypotheses of all utterances, extended by one symbol, merged and cut to the beam.

A label sequence is identified by a rolling 64-bit hash. Two of a beam's K sequences collide with a probability of about
K^2 / 2^64 per step: less than one in a million for ten thousand hours of speech. Lookups by hash are needed since a
prefix may leave the beam and come back, and must then be merged with its own earlier extensions.

B utterances still searched   K hypotheses of a beam   M labels considered for each   n = B x K   V classes with blank
"""

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from asr.data.tokenizer import BLANK
from asr.decoding.beam_state import ROOT, Contexts, Histories, Reader
from asr.decoding.search import Scorer

_MULTIPLIER, _INCREMENT = 6364136223846793005, 1442695040888963407  # constants of Knuth's generator MMIX, modulo 2^64


@dataclass(frozen=True, slots=True)
class Front:
    """The hypotheses of all utterances after ``length`` symbols of their alignments."""

    length: int
    row_B: Tensor  # utterance within the batch
    frames_B: Tensor  # number of the utterance's frames
    max_labels_B: Tensor
    score_BK: Tensor  # log probability and terms, float64; -inf: no hypothesis
    labels_BK: Tensor  # number of labels
    last_BK: Tensor  # the last label
    hash_BK: Tensor  # hash of all labels
    prefix_BK: Tensor  # hash of all labels but the last
    node_BK: Tensor  # node in the tree of histories
    unread_BK: Tensor  # the contexts have not read the last label
    contexts: Contexts

    @staticmethod
    def start(reader: Reader, encoder_BTJ: Tensor, lengths_B: Tensor, max_labels_B: Tensor, beam: int) -> "Front":
        """The empty hypothesis of each utterance that has frames."""
        row_B = lengths_B.nonzero()[:, 0]
        zeros_BK = torch.zeros(len(row_B), beam, dtype=torch.int64, device=row_B.device)
        score_BK = torch.full_like(zeros_BK, -math.inf, dtype=torch.float64)
        score_BK[:, 0] = 0.0
        contexts = reader.start(zeros_BK.numel(), encoder_BTJ.device, encoder_BTJ.dtype)
        return Front(
            length=0, row_B=row_B, frames_B=lengths_B[row_B], max_labels_B=max_labels_B[row_B], score_BK=score_BK,
            labels_BK=zeros_BK, last_BK=zeros_BK, hash_BK=zeros_BK, prefix_BK=zeros_BK - 1, node_BK=zeros_BK + ROOT,
            unread_BK=zeros_BK.bool(), contexts=contexts,
        )  # fmt: skip

    @property
    def at_frame(self) -> Tensor:
        """(B, K) the frame at which each hypothesis is."""
        return (self.length - self.labels_BK).minimum(self.frames_B[:, None] - 1)

    @property
    def in_last_frame(self) -> Tensor:
        """(B, K) bool: True where the next blank completes the hypothesis."""
        return self.at_frame == self.frames_B[:, None] - 1

    @property
    def label_terms(self) -> Tensor:
        """The terms added to the scores of labels: (B, K, V), or (B, K, 1) where all labels get the same."""
        return self.contexts.terms_nV.view(*self.score_BK.shape, -1)

    @property
    def first_places(self) -> Tensor:
        """(B,) index into the contexts of each utterance's first hypothesis."""
        return torch.arange(len(self.row_B), device=self.row_B.device) * self.score_BK.shape[1]

    def log_probs(self, joiner: Scorer, encoder_BTJ: Tensor) -> Tensor:
        """Log probabilities (B, K, V) of blank and of every label, at the frame and label of each hypothesis."""
        encoder_BKJ = encoder_BTJ[self.row_B[:, None], self.at_frame]
        logits_BKV = joiner.logits(encoder_BKJ, self.contexts.prediction_nJ.view(*self.score_BK.shape, -1))
        return logits_BKV.log_softmax(-1, dtype=torch.promote_types(logits_BKV.dtype, torch.float32))

    def completed(self, log_probs_BKV: Tensor) -> Tensor:
        """(B, K) scores of the hypotheses that take a last blank and end there."""
        return self.score_BK + log_probs_BKV[..., BLANK] + self.contexts.end_n.view_as(self.score_BK)

    def promise(self, max_gain: float) -> Tensor:
        """(B,) upper bound on the score of any hypothesis in the beam and of any extension of it."""
        score_BK = self.score_BK
        if math.isinf(max_gain):
            return torch.where(score_BK > -math.inf, math.inf, -math.inf).amax(1)
        if max_gain:
            score_BK = score_BK + max_gain * (self.max_labels_B[:, None] - self.labels_BK)
        return score_BK.logsumexp(1)

    def of(self, keep_B: Tensor) -> "Front":
        """The front restricted to some utterances."""
        if bool(keep_B.all()):
            return self
        rows = keep_B.nonzero()[:, 0]
        places_n = (self.first_places[rows, None] + torch.arange(self.score_BK.shape[1], device=rows.device)).flatten()
        values = {
            each.name: getattr(self, each.name)[rows]
            for each in fields(self)
            if each.name not in ("length", "contexts")
        }
        return replace(self, contexts=self.contexts[places_n], **values)

    def read(self, reader: Reader) -> None:
        """Advance the contexts by the labels that were added in this step."""
        rows_m = self.unread_BK.flatten().nonzero()[:, 0]
        if len(rows_m):
            self.contexts.put(rows_m, reader.read(self.last_BK.flatten()[rows_m], self.contexts[rows_m]))


def extend(front: Front, log_probs_BKV: Tensor, histories: Histories) -> Front:
    """Extend every alignment by one symbol and return the new beam, whose contexts have not read the symbol yet."""
    beam = front.score_BK.shape[1]
    blank_BK = front.score_BK + log_probs_BKV[..., BLANK]
    blank_BK = blank_BK.where(~front.in_last_frame, -math.inf)  # there, a blank completes the hypothesis
    label_BKV = log_probs_BKV + front.label_terms
    merged_BK, prefix_BK = take_merging_labels(front, label_BKV)

    label_BKM, token_BKM = label_BKV.topk(min(beam, label_BKV.shape[-1] - 1))
    may_grow_BK = front.labels_BK < front.max_labels_B[:, None]
    grown_BKM = front.score_BK.where(may_grow_BK, -math.inf)[..., None] + label_BKM
    candidates = torch.cat([blank_BK.logaddexp(merged_BK), grown_BKM.flatten(1)], 1)
    score_BK, choice_BK = candidates.topk(beam)

    grows_BK = choice_BK >= beam
    choice_BK = torch.where(grows_BK, choice_BK - beam, choice_BK)
    slot_BK = torch.where(grows_BK, choice_BK // label_BKM.shape[-1], choice_BK)

    def of_slot(values_BK: Tensor) -> Tensor:
        return values_BK.gather(1, slot_BK)

    token_BK = torch.where(grows_BK, token_BKM.flatten(1).gather(1, choice_BK), of_slot(front.last_BK))
    # At a merge, labels are taken to lie where the more probable of the two alignments has them.
    comes_BK = grows_BK | of_slot(merged_BK > blank_BK)
    origin_BK = torch.where(grows_BK, slot_BK, of_slot(prefix_BK))
    node_BK = histories.grow(front.node_BK.gather(1, origin_BK), token_BK, front.at_frame.gather(1, origin_BK))
    hash_BK = of_slot(front.hash_BK)
    return replace(
        front,
        length=front.length + 1,
        score_BK=score_BK,
        labels_BK=of_slot(front.labels_BK) + grows_BK,
        last_BK=token_BK,
        hash_BK=torch.where(grows_BK, extended_hash(hash_BK, token_BK), hash_BK),
        prefix_BK=torch.where(grows_BK, hash_BK, of_slot(front.prefix_BK)),
        node_BK=torch.where(comes_BK, node_BK, of_slot(front.node_BK)),
        unread_BK=grows_BK & (score_BK > -math.inf),
        contexts=front.contexts[(slot_BK + front.first_places[:, None]).flatten()],
    )


def take_merging_labels(front: Front, label_BKV: Tensor) -> tuple[Tensor, Tensor]:
    """For each hypothesis the score that its prefix in the beam gives it (-inf without one), and the prefix's index.

    Merged labels and blanks are removed from ``label_BKV`` in place: the remaining labels make new hypotheses.
    """
    alive_BK = front.score_BK > -math.inf
    is_prefix_BKK = front.prefix_BK[:, :, None] == front.hash_BK[:, None, :]
    is_prefix_BKK &= alive_BK[:, :, None] & alive_BK[:, None, :]
    found_BK, place_BK = is_prefix_BKK.any(2), is_prefix_BKK.int().argmax(2)
    label = torch.arange(len(label_BKV), device=label_BKV.device)[:, None], place_BK, front.last_BK * found_BK
    score_BK = (front.score_BK.gather(1, place_BK) + label_BKV[label]).where(found_BK, -math.inf)
    label_BKV[label] = -math.inf
    label_BKV[..., BLANK] = -math.inf
    return score_BK, place_BK


def extended_hash(hash_BK: Tensor, token_BK: Tensor) -> Tensor:
    """Hash of a label sequence extended by one token; 64-bit integers wrap around."""
    mixed_BK = (hash_BK + token_BK) * _MULTIPLIER + _INCREMENT
    return mixed_BK ^ (mixed_BK >> 29)
