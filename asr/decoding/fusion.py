"""Language models in the search: shallow fusion, and the density ratio method (McDermott et al. 2019, arXiv 2002.11268).

    score(y) = log p(y|x) - mu log p_source(y) + lambda log p_external(y) + rho |y|

A transducer has learnt a language model of its own from its transcripts. One of the same transcripts, the source model,
stands for that and is taken out before another one comes in; without it (mu 0) this is shallow fusion. In the search
every label brings its terms as it is added, blanks bring none (Saon et al. 2021, arXiv 2103.09935).

n hypotheses   V classes, blank, which is the end of the text in a language model, included
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from asr.data.tokenizer import BLANK
from asr.decoding.search import TokenModel
from asr.decoding.search_networks import token_model_of
from asr.models.predictor import State
from distributed.ranges import NonNegative


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """The language models of the search and their weights, as options of the configuration."""

    external: Path | None
    source: Path | None
    external_weight: NonNegative  # lambda
    source_weight: NonNegative  # mu
    label_bonus: float  # rho
    end_of_text: bool

    @property
    def names_models(self) -> bool:
        """True if there are language models to load."""
        return self.external is not None or self.source is not None

    @property
    def suffix(self) -> str:
        """Suffix of the result files: searches by shallow fusion, with the density ratio and without language models have names of their own."""
        if self.source is not None:
            return "-density-ratio"
        return "-lm" if self.external is not None else "-bonus" if self.label_bonus else ""

    def terms(self, external: TokenModel | None, source: TokenModel | None) -> "FusedTerms":
        """The terms of labels, by the models that ``external`` and ``source`` name; None where there is none."""
        pairs = ((self.external_weight, external), (-self.source_weight, source))
        weighed = [(weight, model) for weight, model in pairs if model is not None and weight]
        return FusedTerms(weighed, self.label_bonus, self.end_of_text)


class FusedTerms:
    """Weighted log probabilities of token models, and a bonus, as the search adds them to labels."""

    def __init__(self, models: Sequence[tuple[float, TokenModel]], label_bonus: float, end_of_text: bool) -> None:
        self.models = models
        self.label_bonus = label_bonus
        self.end_of_text = end_of_text

    @property
    def constant(self) -> float | None:
        """The bonus, if there is no model."""
        return None if self.models else self.label_bonus

    @property
    def max_gain(self) -> float:
        """Upper bound of a label's term: a log probability is at most 0, and has no lower limit if it is subtracted."""
        return math.inf if any(weight < 0 for weight, _ in self.models) else max(0.0, self.label_bonus)

    def of_search(self, reads: int, device: torch.device) -> "FusedTerms":
        """The same of models as a search steps them that reads about ``reads`` rows."""
        models = [(weight, token_model_of(model, reads, device)) for weight, model in self.models]
        return FusedTerms(models, self.label_bonus, self.end_of_text)

    def start(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """The states of the models, concatenated."""
        return tuple(part for _, model in self.models for part in model.start(batch_size, device, dtype))

    def step(self, tokens_n: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Terms of the labels (n, V), or (n, 1) where all have the same, and of the end of the text (n,)."""
        zeros_n1 = torch.zeros(len(tokens_n), 1, device=tokens_n.device)
        terms_nV, states = zeros_n1, list[Tensor]()
        for (weight, model), size in zip(self.models, self._state_sizes, strict=True):
            log_probs_nV, advanced = model.step(tokens_n, state[len(states) : len(states) + size])
            terms_nV = terms_nV + weight * log_probs_nV
            states += advanced
        end_n = terms_nV[:, BLANK] if self.end_of_text else zeros_n1[:, 0]
        return terms_nV + self.label_bonus, end_n, tuple(states)

    @cached_property
    def _state_sizes(self) -> list[int]:
        return [len(model.start(0, torch.device("cpu"), torch.float32)) for _, model in self.models]


@torch.no_grad()
def text_scores(
    model: TokenModel, texts: Sequence[Sequence[int]], end_of_text: bool, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """log p (n,) float64 of some label sequences, read side by side; their ends judged too if ``end_of_text``."""
    lengths_n = torch.tensor([len(text) for text in texts], device=device)
    rows = [torch.tensor([BLANK, *text], device=device) for text in texts]
    read_nU = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=BLANK)
    score_n, state = torch.zeros(len(texts), dtype=torch.float64, device=device), model.start(len(texts), device, dtype)
    for position in range(read_nU.shape[1]):
        log_probs_nV, state = model.step(read_nU[:, position], state)
        inside_n = lengths_n > position
        follows_n = read_nU[:, min(position + 1, read_nU.shape[1] - 1)].where(inside_n, BLANK)
        counted_n = inside_n | ((lengths_n == position) & end_of_text)
        score_n += log_probs_nV.gather(1, follows_n[:, None])[:, 0].where(counted_n, 0.0)
    return score_n
