"""The interfaces of a search: the models that it reads, and the hypotheses that it returns.

B utterances   D dimension of a network's output   J joint dimension   ... any leading axes   V classes with blank
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from asr.models.predictor import State
from distributed.errors import UsageError


class SearchError(UsageError):
    """The search does not suit the model; the message names one that does."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The recognised tokens of one utterance."""

    tokens: list[int]
    score: float  # log probability, blanks included: of one alignment in greedy search, of all that were kept in beam search
    frames: list[int]  # encoder frame at which each token was emitted, in the alignment (of those) that was followed


class Stepper(Protocol):
    """A prediction network that reads one token per hypothesis at a time."""

    def start(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """The state that has read nothing."""

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Output (B, D) and state after reading one token (B,)."""

    def select(self, mask_B: Tensor, new_state: State, old_state: State) -> State:
        """The new state where the mask is True, the old state elsewhere."""


class Scorer(Protocol):
    """A joiner."""

    def project_encoder(self, states_BTD: Tensor, /) -> Tensor:
        """(B, T, D) to (B, T, J)."""

    def project_predictor(self, outputs_BSD: Tensor, /) -> Tensor:
        """(B, S, D) to (B, S, J)."""

    def logits(self, encoder_J: Tensor, predictor_J: Tensor, /) -> Tensor:
        """Scores (..., V) of projected inputs (..., J), whose leading axes broadcast."""


class Model(Protocol):
    """The interface of a transducer that a search needs."""

    @property
    def predictor(self) -> Stepper: ...

    @property
    def joiner(self) -> Scorer: ...


class CtcModel(Protocol):
    """The interface of a CTC model that a search needs: scores of tokens, state by state."""

    @property
    def ctc_head(self) -> Callable[[Tensor], Tensor]:
        """(B, S, D) to scores (B, S, V)."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """A token that a search has found while the recording goes on."""

    token: int
    frame: int  # encoder frame, counted from the start of the recording
    confidence: float  # its probability among all tokens, blank aside, where it was emitted


class OnlineSearch(Protocol):
    """The search of one recording while it is heard, with all that it must remember."""

    def push(self, encoder_states_SD: Tensor) -> list[Emitted]:
        """The tokens of the next states; those of earlier ones never change."""


@runtime_checkable
class DecodesOnline(Protocol):
    """A search of the configuration that also works while a recording goes on."""

    def online(self, model: Any, /) -> OnlineSearch:
        """The search of one recording."""


class NBestSearch(Protocol):
    """A search that also returns the N best hypotheses of each utterance."""

    name: str

    def check(self, model: object) -> None:
        """Raise SearchError unless the model has what this search reads."""

    def n_best(self, model: Model, encoder_states_BTD: Tensor, lengths_B: Tensor) -> list[list[Hypothesis]]:
        """The best hypotheses of each utterance, distinct and best first: at least one, and at most a configured number."""


class TokenModel(Protocol):
    """A language model over the tokenizer's vocabulary, which reads one token per hypothesis at a time."""

    def start(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """The state that has read nothing; the first ``step`` reads BLANK, the start symbol."""

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Log probabilities (B, V) of what follows, entry BLANK being the end of the sentence, after one token (B,)."""
