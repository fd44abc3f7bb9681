"""The state of a batched beam search: outputs of networks that read the labels, the labels themselves, the results.

B utterances   K hypotheses of a beam   N complete hypotheses that are kept   n = B x K, m some of these   U labels
J joint dimension   D predictor dimension   V classes with blank
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from asr.data.tokenizer import BLANK
from asr.decoding.search import Hypothesis, Model
from asr.models.predictor import State

ROOT = -1  # the node of no labels


class LabelTerms(Protocol):
    """Terms that language models add to the transducer's score of a label, given the labels before it."""

    @property
    def max_gain(self) -> float:
        """Upper bound of a label's term (the end's term is at most 0); infinite if there is no limit."""

    def start(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """The state that has read nothing; the first ``step`` reads BLANK."""

    def step(self, tokens_n: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Read one label (n,): terms (n, V) of the next label, or (n, 1) for all; terms (n,) of the end; new state."""


class NoTerms:
    """A search by the transducer alone."""

    max_gain = 0.0

    def start(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """An empty state: there is no language model."""
        return ()

    def step(self, tokens_n: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Terms of zero: (n, 1) for all labels and (n,) for the end."""
        zeros_n1 = torch.zeros(len(tokens_n), 1, device=tokens_n.device)
        return zeros_n1, zeros_n1[:, 0], ()


@dataclass(frozen=True, slots=True)
class Contexts:
    """Outputs and states of the networks that have read the labels of n hypotheses."""

    prediction_nJ: Tensor  # projected outputs of the prediction network
    terms_nV: Tensor  # terms of the next label; (n, 1) where all labels have the same
    end_n: Tensor  # term of the end of the text
    predictor: State
    terms: State

    def __getitem__(self, rows_m: Tensor) -> "Contexts":
        """The contexts of some hypotheses."""
        predictor = tuple(part[rows_m] for part in self.predictor)
        terms = tuple(part[rows_m] for part in self.terms)
        return Contexts(self.prediction_nJ[rows_m], self.terms_nV[rows_m], self.end_n[rows_m], predictor, terms)

    def put(self, rows_m: Tensor, new: "Contexts") -> None:
        """Overwrite the contexts of some hypotheses."""
        for old_n, new_m in zip(self._parts, new._parts, strict=True):
            old_n[rows_m] = new_m

    @property
    def _parts(self) -> State:
        return (self.prediction_nJ, self.terms_nV, self.end_n, *self.predictor, *self.terms)


class Reader:
    """Reads labels with all networks that need them: the prediction network and the language models."""

    def __init__(self, model: Model, terms: LabelTerms) -> None:
        self.model = model
        self.terms = terms

    def start(self, size: int, device: torch.device, dtype: torch.dtype) -> Contexts:
        """Contexts of hypotheses without labels."""
        blank_n = torch.full((size,), BLANK, device=device)
        return self._step(
            blank_n, self.model.predictor.start(size, device, dtype), self.terms.start(size, device, dtype)
        )

    def read(self, tokens_n: Tensor, contexts: Contexts) -> Contexts:
        """Contexts after one more label each."""
        return self._step(tokens_n, contexts.predictor, contexts.terms)

    def _step(self, tokens_n: Tensor, predictor: State, terms: State) -> Contexts:
        output_nD, predictor = self.model.predictor.step(tokens_n, predictor)
        terms_nV, end_n, terms = self.terms.step(tokens_n, terms)
        prediction_nJ = self.model.joiner.project_predictor(output_nD[:, None])[:, 0]
        return Contexts(prediction_nJ, terms_nV, end_n, predictor, terms)


class Histories:
    """Labels and the frames at which they were emitted: a tree, of which a hypothesis holds a node."""

    def __init__(self) -> None:
        self._columns: list[Tensor] = []  # (3, n): parents, tokens, frames
        self._size = 0

    def grow(self, parents_BK: Tensor, tokens_BK: Tensor, frames_BK: Tensor) -> Tensor:
        """The nodes (B, K) that lie one label below ``parents_BK``."""
        self._columns.append(torch.stack([parents_BK, tokens_BK, frames_BK]).flatten(1))
        first, self._size = self._size, self._size + parents_BK.numel()
        return torch.arange(first, self._size, device=parents_BK.device).view_as(parents_BK)

    def read(self, nodes_n: Tensor) -> tuple[list[list[int]], list[list[int]]]:
        """Labels and frames on the way to each node."""
        parents, tokens, frames = torch.cat([torch.full((3, 1), ROOT, device=nodes_n.device), *self._columns], 1)
        place_n = nodes_n + 1  # column 0 is the root's
        path = [place_n]
        while bool(path[-1].any()):
            path.append(parents[path[-1]] + 1)
        path_nU = torch.stack(path[::-1], 1)  # the root on the left, as often as fills the row
        labels = path_nU.count_nonzero(1).tolist()
        rows_of = ((column[path_nU].tolist(), labels) for column in (tokens, frames))
        lists = [[row[len(row) - n :] for row, n in zip(*each, strict=True)] for each in rows_of]
        return lists[0], lists[1]


class Complete:
    """The best N hypotheses of each utterance that have taken the last blank, best first."""

    def __init__(self, lengths_B: Tensor, count: int) -> None:
        self.score_BN = torch.full((len(lengths_B), count), -math.inf, dtype=torch.float64, device=lengths_B.device)
        self.score_BN[:, 0] = torch.where(lengths_B == 0, 0.0, -math.inf)  # no frames, no labels
        self.node_BN = torch.full_like(self.score_BN, ROOT, dtype=torch.int64)

    def add(self, rows_A: Tensor, score_AK: Tensor, node_AK: Tensor) -> None:
        """Add complete hypotheses of some utterances and keep the best N."""
        score_AM = torch.cat([self.score_BN[rows_A], score_AK.where(score_AK > -math.inf, -math.inf)], 1)  # no NaN
        node_AM = torch.cat([self.node_BN[rows_A], node_AK], 1)
        self.score_BN[rows_A], order_AN = score_AM.topk(self.score_BN.shape[1])
        self.node_BN[rows_A] = node_AM.gather(1, order_AN)

    def hypotheses(self, histories: Histories) -> list[list[Hypothesis]]:
        """The hypotheses as lists, best first; an empty one with score -inf if all scores were NaN."""
        kept_BN = self.score_BN > -math.inf
        kept_BN[:, 0] = True
        tokens, frames = histories.read(self.node_BN.where(self.score_BN > -math.inf, ROOT)[kept_BN])
        found = map(Hypothesis, tokens, self.score_BN[kept_BN].tolist(), frames)
        return [[next(found) for _ in range(count)] for count in kept_BN.sum(1).tolist()]
