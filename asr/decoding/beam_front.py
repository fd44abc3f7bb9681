"""One step of the beam search: all hypotheses of all utterances, extended by one symbol, merged and cut to the beam.

A step is some fifty operators on small tensors, and their number is what it costs. So what hypotheses are known by is one
tensor, which moves as a whole, and what only the end of a search needs is left out until a hypothesis can be there.

A label sequence is identified by a rolling 64-bit hash. Two of a beam's K sequences collide with a probability of about
K^2 / 2^64 per step: less than one in a million for ten thousand hours of speech. Lookups by hash are needed since a
prefix may leave the beam and come back, and must then be merged with its own earlier extensions.

B utterances still searched   K hypotheses of a beam   n = B x K   V classes with blank   N = (utterances) x T encoder frames
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from asr.data.tokenizer import BLANK
from asr.decoding.beam_history import Step
from asr.decoding.beam_state import Pool, Reader
from asr.decoding.search_networks import FEW_ROWS, Networks

_MULTIPLIER = 6364136223846793005  # Knuth's generator MMIX, modulo 2^64
_NOTHING = -1  # the hash of what is no label sequence: the prefix of the empty one
ROUND_ROWS = 8  # on a CPU many rows are read in multiples of this, some of them twice
_DEAD_HASH, _DEAD_PREFIX = -2, -3
_OFFSET, _CONTEXT, _LABEL, _HASH, _PREFIX = range(5)  # facts of a hypothesis


@dataclass(frozen=True, slots=True)
class Utterances:
    """The utterances still searched."""

    row_B: Tensor  # utterance within the batch
    first_B1: Tensor  # its first frame among all frames of the batch
    last_B1: Tensor  # its last frame
    max_labels_B1: Tensor
    place_B1: Tensor  # its first hypothesis among all

    @staticmethod
    def of(row_B: Tensor, lengths_B: Tensor, frames: int, max_labels_B: Tensor, beam: int) -> "Utterances":
        """Utterances ``row_B`` of a batch whose rows have ``frames`` frames."""
        first_B1 = row_B[:, None] * frames
        return Utterances(
            row_B, first_B1, first_B1 + lengths_B[row_B, None] - 1, max_labels_B[row_B, None], _places(row_B, beam)
        )

    def at(self, kept_B: Tensor, beam: int) -> "Utterances":
        """Some of the utterances, by their indices."""
        row_B, first_B1, last_B1, max_labels_B1, _ = (getattr(self, each.name)[kept_B] for each in fields(self))
        return Utterances(row_B, first_B1, last_B1, max_labels_B1, _places(row_B, beam))


def _places(row_B: Tensor, beam: int) -> Tensor:
    return torch.arange(0, len(row_B) * beam, beam, device=row_B.device)[:, None]


class Front:
    """The hypotheses of all utterances after ``length`` symbols of their alignments; every step changes it.

    score_BK: log probability and terms, float64; -inf: no hypothesis
    facts_5BK: offset (frame among all of the batch, less ``length``), row of the context in the pool, last label, hash of all
        labels, hash of all but the last
    grows_BK: the context has not read the last label
    """

    def __init__(self, utterances: Utterances, beam: int, pool: Pool, shortest: int, fewest: int) -> None:
        """The empty hypothesis of each utterance; ``pool`` has the context of no labels, ``shortest`` and ``fewest`` are the least limits."""
        self.utterances, self.pool = utterances, pool
        self.length, self.shortest, self.fewest = 0, shortest, fewest
        zeros_BK = utterances.row_B.new_zeros(len(utterances.row_B), beam)
        self.facts_5BK = torch.stack([zeros_BK + utterances.first_B1, *[zeros_BK] * 3, zeros_BK + _NOTHING])
        self.score_BK = torch.full_like(zeros_BK, -math.inf, dtype=torch.float64)
        self.score_BK[:, 0] = 0.0
        self.grows_BK = zeros_BK.bool()
        # Both hashes as they are compared: those of places without a hypothesis match nothing.
        self._dead_211 = zeros_BK.new_tensor([_DEAD_HASH, _DEAD_PREFIX])[:, None, None]
        self._keys_2BK = torch.where(self.score_BK > -math.inf, self.facts_5BK[_HASH:], self._dead_211)

    @staticmethod
    def start(reader: Reader, encoder_BTJ: Tensor, lengths_B: Tensor, max_labels_B: Tensor, beam: int) -> "Front":
        """The empty hypothesis of each utterance that has frames."""
        row_B = lengths_B.nonzero()[:, 0]
        utterances = Utterances.of(row_B, lengths_B, encoder_BTJ.shape[1], max_labels_B, beam)
        pool = Pool(reader.start(encoder_BTJ.device, encoder_BTJ.dtype), len(row_B) * beam, ROUND_ROWS)
        limits = torch.stack([lengths_B, max_labels_B], 1)[row_B]
        shortest, fewest = limits.amin(0).tolist() if len(row_B) else (0, 0)
        return Front(utterances, beam, pool, shortest, fewest)

    def frames(self) -> Tensor:
        """(B, K) frame of each hypothesis, among all of the batch."""
        frames_BK = self.facts_5BK[_OFFSET] + self.length
        if self.length < self.shortest:
            return frames_BK
        return frames_BK.minimum(self.utterances.last_B1)  # where there is no hypothesis, it may be any

    def extensions(self, networks: Networks, encoder_NJ: Tensor, frames_BK: Tensor, bonus: float) -> Tensor:
        """Scores (B, K, V) float64 of each hypothesis with one more symbol: blank, or any label with its terms."""
        rows_n, contexts = self._contexts_n(), self.pool.contexts
        logits_nV = networks.logits(encoder_NJ.index_select(0, frames_BK.view(-1)), contexts.networks, rows_n)
        wide = torch.float32 if logits_nV.dtype.itemsize < 4 else None
        scores_nV = self.score_BK.view(-1, 1) + logits_nV.log_softmax(-1, dtype=wide)
        if contexts.terms:
            scores_nV += contexts.terms[0].index_select(0, rows_n)
        elif bonus:
            scores_nV[:, BLANK + 1 :] += bonus
        return scores_nV.view(*frames_BK.shape, -1)

    def in_last_frame(self, frames_BK: Tensor) -> Tensor | None:
        """(B, K) bool: True where the next blank completes a hypothesis; None if there is no such hypothesis."""
        if self.length + 1 < self.shortest:
            return None
        last_BK = frames_BK == self.utterances.last_B1
        return last_BK if bool(last_BK.any()) else None

    def completed(self, scores_BKV: Tensor, last_BK: Tensor) -> Tensor:
        """(B, K) scores of the hypotheses that take a last blank and end there; -inf where ``last_BK`` is False."""
        score_BK = scores_BKV[..., BLANK].where(last_BK, -math.inf)
        if terms := self.pool.contexts.terms:
            score_BK += terms[1].index_select(0, self._contexts_n()).view_as(score_BK)
        return score_BK

    def promise(self, max_gain: float) -> Tensor:
        """(B,) upper bound on the score of any hypothesis in the beam and of any extension of it."""
        score_BK = self.score_BK
        if math.isinf(max_gain):
            return torch.where(score_BK > -math.inf, math.inf, -math.inf).amax(1)
        if max_gain:
            labels_BK = self.utterances.first_B1 - self.facts_5BK[_OFFSET]
            score_BK = score_BK + max_gain * (self.utterances.max_labels_B1 - labels_BK)
        return score_BK.logsumexp(1)

    def keep(self, kept_B: Tensor) -> None:
        """Go on with some utterances alone, by their indices."""
        self.utterances = self.utterances.at(kept_B, self.score_BK.shape[1])
        self.score_BK, self.grows_BK = self.score_BK[kept_B], self.grows_BK[kept_B]
        self.facts_5BK, self._keys_2BK = self.facts_5BK[:, kept_B], self._keys_2BK[:, kept_B]

    def read(self, reader: Reader) -> None:
        """Read the labels that were added in this step."""
        rows_m = self.grows_BK.view(-1).nonzero().squeeze(1)
        if len(rows_m):
            if len(rows_m) > FEW_ROWS and rows_m.device.type == "cpu":  # a kernel is made for every new number of rows
                rows_m = torch.cat([rows_m, rows_m[: -len(rows_m) % ROUND_ROWS]])
            if self.pool.lacks(len(rows_m)):
                self._contexts_n().copy_(self.pool.keep(self._contexts_n()))
            facts_5m = self.facts_5BK.flatten(1).index_select(1, rows_m)
            read = reader.read(facts_5m[_LABEL], self.pool.contexts.at(facts_5m[_CONTEXT]))
            self._contexts_n().index_copy_(0, rows_m, self.pool.add(read))

    def _contexts_n(self) -> Tensor:
        """Rows of the hypotheses' contexts: a view."""
        return self.facts_5BK[_CONTEXT].view(-1)

    def extend(self, scores_BKV: Tensor, last_BK: Tensor | None) -> Step:
        """Extend every alignment by one symbol and keep the best; the contexts have not read the symbol yet.

        Args:
            scores_BKV: ``extensions``, which is overwritten.
            last_BK: True where blank completes a hypothesis, which then leaves the beam.
        """
        beam, classes = scores_BKV.shape[1:]
        if last_BK is not None:
            scores_BKV[..., BLANK].masked_fill_(last_BK, -math.inf)
        last_label_BK = self.facts_5BK[_LABEL]
        comes_BK, prefix_BK = merge(scores_BKV, self._keys_2BK[0], self._keys_2BK[1], last_label_BK)
        if self.length >= self.fewest:
            full_BK = self.utterances.first_B1 - self.facts_5BK[_OFFSET] >= self.utterances.max_labels_B1
            scores_BKV[..., BLANK + 1 :].masked_fill_(full_BK[..., None], -math.inf)
        self.score_BK, choice_BK = scores_BKV.flatten(1).topk(beam)
        slot_BK = choice_BK // classes
        token_BK = torch.sub(choice_BK, slot_BK, alpha=classes)
        self._move(slot_BK, token_BK)
        self.length += 1
        return Step(self.utterances.row_B, slot_BK, token_BK, comes_BK, prefix_BK, last_label_BK)

    def _move(self, slot_BK: Tensor, token_BK: Tensor) -> None:
        """Make each hypothesis the one in ``slot_BK`` with one more symbol."""
        place_n = (slot_BK + self.utterances.place_B1).view(-1)
        moved_5BK = self.facts_5BK.flatten(1).index_select(1, place_n).view_as(self.facts_5BK)
        offset_BK, context_BK, _, hash_BK, _ = moved_5BK.unbind()
        grown_5BK = torch.stack([offset_BK - 1, context_BK, token_BK, extended_hash(hash_BK, token_BK), hash_BK])
        alive_BK = self.score_BK > -math.inf
        self.grows_BK = (token_BK != BLANK).logical_and_(alive_BK)
        self.facts_5BK = torch.where(self.grows_BK, grown_5BK, moved_5BK)
        self._keys_2BK = torch.where(alive_BK, self.facts_5BK[_HASH:], self._dead_211)


def merge(scores_BKV: Tensor, hash_BK: Tensor, prefix_BK: Tensor, last_label_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Add to each hypothesis' blank the label that makes the same of its prefix in the beam; that label is then gone.

    Returns:
        comes_BK: True where the label is the more probable of the two: labels are then taken to lie where it has them.
        place_BK: the prefix, where there is one.
    """
    missing_BK, place_BK = (prefix_BK.unsqueeze(2) != hash_BK.unsqueeze(1)).min(2)
    flat_BN, blank_BK = scores_BKV.flatten(1), scores_BKV[..., BLANK]
    # Where there is no prefix, the cell is the blank of some hypothesis, and all blanks are written below.
    cell_BK = torch.add(last_label_BK.masked_fill(missing_BK, BLANK), place_BK, alpha=scores_BKV.shape[2])
    label_BK = flat_BN.gather(1, cell_BK).masked_fill_(missing_BK, -math.inf)
    comes_BK, merged_BK = label_BK > blank_BK, label_BK.logaddexp(blank_BK)
    flat_BN.scatter_(1, cell_BK, -math.inf)
    blank_BK.copy_(merged_BK)
    return comes_BK, place_BK


def extended_hash(hash_BK: Tensor, token_BK: Tensor) -> Tensor:
    """Hash of a label sequence extended by one token; 64-bit integers wrap around."""
    mixed_BK = torch.add(token_BK, hash_BK, alpha=_MULTIPLIER)
    return mixed_BK ^ (mixed_BK >> 29)
