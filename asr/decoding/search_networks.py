"""Prediction networks, joiners and language models as a beam search reads them: thousands of steps of a few rows each.

The modules themselves, or for LSTMs on a CPU the same arithmetic in a third of the operators (asr/decoding/lstm_steps.py), whose
results agree to rounding.

B utterances   T frames   n hypotheses   V tokens   J joint dimension
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from asr.decoding.lstm_steps import LstmSteps, unchanged
from asr.decoding.search import Model, TokenModel
from asr.losses.squashing import TANH
from asr.models.joiner import Joiner
from asr.models.predictor import LstmPredictor, State
from asr.models.token_lm import TokenLanguageModel

FEW_ROWS = 32


class Networks(Protocol):
    """What a beam search asks of a transducer. Each tensor of a ``State`` has the hypotheses as its first axis."""

    def project_encoder(self, states_BTD: Tensor, /) -> Tensor:
        """(B, T, D) to (B, T, J)."""

    def start(self, size: int, device: torch.device, dtype: torch.dtype) -> State:
        """The state that has read nothing; the first ``read`` reads BLANK."""

    def read(self, tokens_n: Tensor, state: State) -> State:
        """The state after one more token each."""

    def logits(self, encoder_nJ: Tensor, state: State, rows_n: Tensor) -> Tensor:
        """Scores (n, V) of what comes next, at one frame each, after what the rows of ``state`` have read; the first is overwritten."""


def networks_of(model: Model, reads: int, device: torch.device) -> Networks:
    """The networks of ``model`` for one search, which reads about ``reads`` rows."""
    predictor, joiner = model.predictor, model.joiner
    if not isinstance(predictor, LstmPredictor) or not isinstance(joiner, Joiner) or not unchanged({Joiner: [joiner]}):
        return Modules(model)
    layers = (joiner.project_encoder, joiner.project_predictor, joiner.output)
    if joiner.squashing is not TANH or not LstmSteps.suit(predictor, device, layers):
        return Modules(model)
    return FusedTransducer(predictor, joiner, reads)


def token_model_of(model: TokenModel, reads: int, device: torch.device) -> TokenModel:
    """A language model for one search, which reads about ``reads`` rows."""
    if not isinstance(model, TokenLanguageModel) or not unchanged({TokenLanguageModel: [model]}):
        return model
    predictor = model.predictor
    if not isinstance(predictor, LstmPredictor) or not LstmSteps.suit(predictor, device, [model.output]):
        return model
    return FusedTokenModel(model, predictor, reads)


class Modules:
    """The modules as they are: the state is the projected output and the network's own state."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.project_encoder = model.joiner.project_encoder

    def start(self, size: int, device: torch.device, dtype: torch.dtype) -> State:
        """The network's own state, behind nothing."""
        return torch.zeros(size, 0, device=device, dtype=dtype), *self.model.predictor.start(size, device, dtype)

    def read(self, tokens_n: Tensor, state: State) -> State:
        """Output (n, J), projected, and the network's state."""
        output_nD, advanced = self.model.predictor.step(tokens_n, state[1:])
        return self.model.joiner.project_predictor(output_nD[:, None])[:, 0], *advanced

    def logits(self, encoder_nJ: Tensor, state: State, rows_n: Tensor) -> Tensor:
        """Scores (n, V)."""
        return self.model.joiner.logits(encoder_nJ, state[0].index_select(0, rows_n))


class FusedTransducer:
    """An LSTM and a joiner in few operators."""

    def __init__(self, predictor: LstmPredictor, joiner: Joiner, reads: int) -> None:
        self.joiner, self.multiplies = joiner, joiner.combine == "multiply"
        twice = 1 if self.multiplies else 2  # of a product one factor is doubled: the encoder's
        projection = joiner.project_predictor
        self.steps = LstmSteps(predictor, twice * projection.weight, twice * projection.bias, reads)
        self.start, self.read = self.steps.start, self.steps.read
        output = joiner.output
        self.output_JV = 2 * output.weight.t().contiguous()
        self.output_bias_V = (output.bias.double() - output.weight.sum(1, dtype=torch.float64)).to(output.bias.dtype)

    def project_encoder(self, states_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, J), doubled."""
        return 2 * self.joiner.project_encoder(states_BTD)

    def logits(self, encoder_nJ: Tensor, state: State, rows_n: Tensor) -> Tensor:
        """Scores (n, V)."""
        prediction_nJ = self.steps.output(state).index_select(0, rows_n)
        joint_nJ = encoder_nJ.mul_(prediction_nJ) if self.multiplies else encoder_nJ.add_(prediction_nJ)
        return torch.addmm(self.output_bias_V, joint_nJ.sigmoid_(), self.output_JV)


class FusedTokenModel:
    """A language model of an LSTM in few operators."""

    def __init__(self, model: TokenLanguageModel, predictor: LstmPredictor, reads: int) -> None:
        self.steps = LstmSteps(predictor, model.output.weight, model.output.bias, reads)
        self.start = self.steps.start

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Log probabilities (B, V) and the state."""
        state = self.steps.read(tokens_B, state)
        return self.steps.output(state).log_softmax(-1), state


@contextmanager
def small_products(rows: int, device: torch.device) -> Iterator[None]:
    """Inside, fp32 matrix products of this process on a CPU, whichever thread makes them, are made for few rows, if there are.

    Where oneDNN makes them (asr/training/precision.py), each takes it 10 us of setup, which only many rows make up for.
    """
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    if device.type != "cpu" or rows > FEW_ROWS or matmul.fp32_precision != "bf16":
        yield
        return
    before, matmul.fp32_precision = matmul.fp32_precision, "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before
