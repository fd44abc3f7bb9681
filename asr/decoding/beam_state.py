"""The state of a batched beam search: outputs of networks that read the labels, and the results.

A utterances of the batch   B utterances still searched   K hypotheses of a beam   N complete hypotheses that are kept
n = B x K, m some of these   V classes with blank
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from asr.data.tokenizer import BLANK
from asr.decoding.beam_history import Histories
from asr.decoding.search import Hypothesis
from asr.decoding.search_networks import Networks
from asr.models.predictor import State

ROWS_PER_HYPOTHESIS = 3  # of a pool: with a quarter of the hypotheses read in a step it is full after eight


class LabelTerms(Protocol):
    """Terms that language models add to the transducer's score of a label, given the labels before it."""

    @property
    def constant(self) -> float | None:
        """The term of every label, if it is the same and the end has none: nothing is then read. Else None."""

    @property
    def max_gain(self) -> float:
        """Upper bound of a label's term (the end's term is at most 0); infinite if there is no limit."""

    def of_search(self, reads: int, device: torch.device) -> "LabelTerms":
        """The same terms for one search, which reads about ``reads`` rows; what is made for it is gone with it."""

    def start(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """The state that has read nothing; the first ``step`` reads BLANK."""

    def step(self, tokens_n: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Read one label (n,): terms (n, V) of the next label; terms (n,) of the end; new state. Not called where ``constant``."""


@dataclass(frozen=True, slots=True)
class Contexts:
    """States of the networks that have read some labels, a row for each label sequence."""

    networks: State
    terms: (
        State  # terms (n, V) of the next label, 0 for blank, terms (n,) of the end, states; empty if terms are constant
    )

    def at(self, rows_m: Tensor) -> "Contexts":
        """Some of the rows."""
        return self.each(lambda state_n: state_n.index_select(0, rows_m))

    def each(self, change: Callable[[Tensor], Tensor]) -> "Contexts":
        """The same with every tensor changed."""
        return Contexts(*(tuple(map(change, state)) for state in (self.networks, self.terms)))


class Pool:
    """The contexts of all hypotheses, which know theirs by its row: to extend one by a blank, or to move it, moves a number.

    What has read a new label is written behind the others. When the rows are used up, those of no hypothesis are dropped.
    """

    def __init__(self, empty: Contexts, hypotheses: int, spare: int) -> None:
        """Row 0 is ``empty``, the context of no labels; no more than ``hypotheses + spare`` are added at a time."""
        rows = ROWS_PER_HYPOTHESIS * hypotheses + spare
        self.contexts = empty.each(lambda state_1: state_1.new_empty(max(1, rows), *state_1.shape[1:]))
        self._used = 0
        self.add(empty)

    def lacks(self, count: int) -> bool:
        """Whether there is no room for so many more."""
        return self._used + count > len(self.contexts.networks[0])

    def keep(self, rows_n: Tensor) -> Tensor:
        """Drop all contexts but those of the hypotheses, and return where these are now (n,)."""
        kept, self._used = self.contexts.at(rows_n), 0
        return self.add(kept)

    def add(self, new: Contexts) -> Tensor:
        """Write some more contexts and return their rows (m,)."""
        first, self._used = self._used, self._used + len(new.networks[0])
        old = self.contexts
        for old_n, new_m in zip((*old.networks, *old.terms), (*new.networks, *new.terms), strict=True):
            old_n[first : self._used] = new_m
        return torch.arange(first, self._used, device=new.networks[0].device)


class Reader:
    """Reads labels with all networks that need them: those of the transducer and the language models."""

    def __init__(self, networks: Networks, terms: LabelTerms) -> None:
        self.networks = networks
        self.terms = terms

    def start(self, device: torch.device, dtype: torch.dtype) -> Contexts:
        """The context of no labels, one row."""
        terms = () if self.terms.constant is not None else self._start_terms(device, dtype)
        blank_1 = torch.full((1,), BLANK, device=device)
        return self.read(blank_1, Contexts(self.networks.start(1, device, dtype), terms))

    def read(self, tokens_n: Tensor, contexts: Contexts) -> Contexts:
        """Contexts after one more label each."""
        terms = contexts.terms
        if terms:
            terms_nV, end_n, state = self.terms.step(tokens_n, terms[2:])
            labels_nV = terms_nV.clone()
            labels_nV[:, BLANK] = 0.0
            terms = (labels_nV, end_n, *state)
        return Contexts(self.networks.read(tokens_n, contexts.networks), terms)

    def _start_terms(self, device: torch.device, dtype: torch.dtype) -> State:
        nothing = torch.zeros(1, device=device)  # in place of terms
        return (nothing, nothing, *self.terms.start(1, device, dtype))


class Complete:
    """The best N hypotheses of each utterance that have taken the last blank, best first.

    Those of utterances still searched are at hand, in the order of the beams; the others have been put away.
    """

    def __init__(self, lengths_A: Tensor, count: int) -> None:
        self._score_AN = torch.full((len(lengths_A), count), -math.inf, dtype=torch.float64, device=lengths_A.device)
        self._score_AN[:, 0] = torch.where(lengths_A == 0, 0.0, -math.inf)  # no frames, no labels
        self._cell_AN = torch.zeros_like(self._score_AN, dtype=torch.int64)
        self._rows_B = lengths_A.nonzero()[:, 0]
        self._take()

    def _take(self) -> None:
        self.score_BN, self._cell_BN = self._score_AN[self._rows_B], self._cell_AN[self._rows_B]

    def add(self, score_BK: Tensor, first_cell: int) -> None:
        """Add the hypotheses of a step, whose cells begin with ``first_cell``, and keep the best N; -inf and NaN are none."""
        count, beam = self.score_BN.shape[1], score_BK.shape[1]
        cell_K = torch.arange(first_cell, first_cell + beam, device=score_BK.device)
        score_BK = score_BK.nan_to_num(-math.inf, math.inf, -math.inf)
        self.score_BN, order_BN = torch.cat([self.score_BN, score_BK], 1).topk(count)
        self._cell_BN = torch.cat([self._cell_BN, cell_K.expand_as(score_BK)], 1).gather(1, order_BN)

    def keep(self, kept_B: Tensor) -> None:
        """Go on with some of the utterances still searched, by their indices."""
        self._put_away()
        self._rows_B = self._rows_B[kept_B]
        self._take()

    def _put_away(self) -> None:
        self._score_AN[self._rows_B], self._cell_AN[self._rows_B] = self.score_BN, self._cell_BN

    def hypotheses(self, histories: Histories) -> list[list[Hypothesis]]:
        """The hypotheses of all utterances, best first; an empty one with score -inf if all scores were NaN."""
        self._put_away()
        kept_AN = self._score_AN > -math.inf
        kept_AN[:, 0] = True
        rows, cells = (
            kept_AN.nonzero()[:, 0].tolist(),
            self._cell_AN.where(self._score_AN > -math.inf, 0)[kept_AN].tolist(),
        )
        labels, frames = histories.read(rows, cells)
        found = map(Hypothesis, labels, self._score_AN[kept_AN].tolist(), frames)
        return [[next(found) for _ in range(count)] for count in kept_AN.sum(1).tolist()]
