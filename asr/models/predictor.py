"""Prediction networks: they predict the next token from the tokens so far.

Training reads whole sequences with ``forward``; decoding reads one token at a time with ``start``, ``step`` and
``select``, and gets the same outputs. BLANK doubles as the start symbol. A ``State`` is a tuple of tensors whose first
axis is the batch, so that hypotheses can be picked, repeated and merged without knowing the network.

B utterances or hypotheses   U tokens   D output dimension   E embedding dimension
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.data.tokenizer import BLANK
from asr.models.dropout import Dropout
from asr.models.recurrence import Lstm
from distributed.ranges import Count, Depth, Probability

State = tuple[Tensor, ...]


class Predictor(nn.Module, ABC):
    """Base of all prediction networks."""

    dimension: int
    """D, the size of one output."""

    @abstractmethod
    def forward(self, inputs_BU: Tensor) -> Tensor:
        """Outputs (B, U+1, D): entry u has read the start symbol and the first u tokens."""

    @abstractmethod
    def start(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """The state that has read nothing; the first ``step`` reads BLANK."""

    @abstractmethod
    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token (B,) int64 per hypothesis: outputs (B, D) and the state that has read it."""

    def select(self, mask_B: Tensor, new_state: State, old_state: State) -> State:
        """The new state of each hypothesis where ``mask_B`` is True, the old state elsewhere."""
        return tuple(
            torch.where(mask_B.view(-1, *[1] * (new.dim() - 1)), new, old)
            for new, old in zip(new_state, old_state, strict=True)
        )


def prepend_start(inputs_BU: Tensor) -> Tensor:
    """(B, U) tokens to (B, U+1), BLANK first."""
    return functional.pad(inputs_BU, (1, 0), value=BLANK)


class LstmPredictor(Predictor):
    """Embedding, dropout, LSTM layers with dropout after each (Graves 2012, arXiv 1211.3711)."""

    def __init__(
        self,
        *,
        vocabulary_size: int,
        embedding: Count,
        dimension: Count,
        layers: Depth,
        embedding_dropout: Probability,
        dropout: Probability,
    ) -> None:
        super().__init__()
        self.dimension = dimension
        self.embedding = nn.Embedding(vocabulary_size, embedding)
        self.embedding_dropout = Dropout(embedding_dropout)
        between = dropout if layers > 1 else 0.0  # one layer has no between, and PyTorch warns of it
        self.lstm = Lstm(embedding, dimension, layers, batch_first=True, dropout=between)
        self.dropout = Dropout(dropout)

    def forward(self, inputs_BU: Tensor) -> Tensor:
        """Outputs (B, U+1, D). The network is causal, so that padding needs no mask."""
        output_BUD, _ = self.lstm(self._embed(prepend_start(inputs_BU)))
        return self.dropout(output_BUD)

    def start(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """Hidden and cell states (B, layers, D), zero."""
        shape = (batch_size, self.lstm.num_layers, self.dimension)
        return torch.zeros(shape, device=device, dtype=dtype), torch.zeros(shape, device=device, dtype=dtype)

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Outputs (B, D) and the next hidden and cell states."""
        hidden_LBD, cell_LBD = (part.transpose(0, 1).contiguous() for part in state)
        output_B1D, (hidden_LBD, cell_LBD) = self.lstm(self._embed(tokens_B.unsqueeze(1)), (hidden_LBD, cell_LBD))
        return self.dropout(output_B1D.squeeze(1)), (hidden_LBD.transpose(0, 1), cell_LBD.transpose(0, 1))

    def _embed(self, tokens_BU: Tensor) -> Tensor:
        embedded_BUE: Tensor = self.embedding_dropout(self.embedding(tokens_BU))
        return embedded_BUE


class StatelessPredictor(Predictor):
    """The last ``context`` tokens only: embedding, one filter per channel over the context, ReLU.

    Ghodsi et al. 2020 (RNN-transducer with stateless prediction network), in the layout of icefall, where positions
    before the start symbol are zero vectors. The state holds the embeddings of the last ``context`` - 1 tokens.
    """

    def __init__(self, *, vocabulary_size: int, dimension: Count, context: Count, dropout: Probability) -> None:
        super().__init__()
        self.dimension = dimension
        self.context = context
        self.embedding = nn.Embedding(vocabulary_size, dimension)
        self.mix = nn.Conv1d(dimension, dimension, kernel_size=context, groups=dimension, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, inputs_BU: Tensor) -> Tensor:
        """Outputs (B, U+1, D)."""
        embedded_BUD = self.embedding(prepend_start(inputs_BU))
        return self._read(functional.pad(embedded_BUD, (0, 0, self.context - 1, 0)))

    def start(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """Embeddings (B, context-1, D), zero."""
        return (torch.zeros(batch_size, self.context - 1, self.dimension, device=device, dtype=dtype),)

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Outputs (B, D) and the window of embeddings, moved on by one."""
        window_BWD = torch.cat([state[0], self.embedding(tokens_B).unsqueeze(1)], dim=1)
        return self._read(window_BWD).squeeze(1), (window_BWD[:, 1:],)

    def _read(self, window_BWD: Tensor) -> Tensor:
        """Compute one output for each position of the filter within the window."""
        output_BUD: Tensor = self.dropout(functional.relu(self.mix(window_BWD.transpose(1, 2)).transpose(1, 2)))
        return output_BUD
