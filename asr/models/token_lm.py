"""Language models over the tokenizer's tokens: a prediction network and a softmax over the next token.

A text y of U tokens has probability prod_u P(y_u | y_<u) x P(end | y). BLANK, which no text has, stands for both edges
of a sentence: it is read first, and its class is the end. So the vocabulary is the recogniser's, token by token, and
any prediction network will do: the LSTM, or the stateless one, whose context makes it a neural n-gram.

    model.start, model.step     one token per hypothesis at a time, as searches and hooks read it

B texts or hypotheses   U tokens   D output dimension   V vocabulary size, blank included   N tokens and ends of a batch
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.data.batch import Batch
from asr.data.tokenizer import BLANK
from asr.models.encoder import padding_mask
from asr.models.predictor import Predictor, State
from asr.models.speech_model import LossOutput, SpeechModel


class TokenLanguageModel(SpeechModel):
    """Reads ``predictor_inputs`` and predicts ``targets`` and the end; does not use the features."""

    has_lattice = False
    subsampling = 1

    def __init__(self, *, predictor: Predictor, vocabulary_size: int) -> None:
        super().__init__()
        self.predictor = predictor
        self.output = nn.Linear(predictor.dimension, vocabulary_size)
        self.vocabulary_size = vocabulary_size

    def forward(self, batch: Batch) -> LossOutput:
        """The loss of ``batch``: -log P summed over its texts, their ends included."""
        if not batch.utterance_ids:
            return LossOutput(self.nothing(), batch.weight)
        outputs_BUD = self.predictor(batch.predictor_inputs)
        classes_BU = functional.pad(batch.targets, (0, 1), value=BLANK)
        counted_BU = ~padding_mask(batch.target_lengths + 1, classes_BU.shape[1])  # the first padding is the end
        log_probs_NV = self._log_probs(outputs_BUD[counted_BU])
        return LossOutput(functional.nll_loss(log_probs_NV, classes_BU[counted_BU], reduction="sum"), batch.weight)

    def log_probs(self, inputs_BU: Tensor) -> Tensor:
        """log P (B, U+1, V): entry u is for the token after the first u tokens; class BLANK is the end."""
        return self._log_probs(self.predictor(inputs_BU))

    def start(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """The state that has read nothing, each tensor's first axis the batch; the first ``step`` reads BLANK."""
        return self.predictor.start(batch_size, device, dtype)

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token (B,) per row: log P (B, V) of the next one (class BLANK is the end), and the new state."""
        outputs_BD, state = self.predictor.step(tokens_B, state)
        return self._log_probs(outputs_BD), state

    def _log_probs(self, outputs_D: Tensor) -> Tensor:
        """(..., D) to (..., V), in at least fp32."""
        logits_V = self.output(outputs_D)
        with torch.autocast(logits_V.device.type, enabled=False):
            return functional.log_softmax(logits_V.to(torch.promote_types(logits_V.dtype, torch.float32)), dim=-1)


def token_language_model(*, predictor: Callable[..., Predictor], vocabulary_size: int) -> TokenLanguageModel:
    """Build the model of a configuration; initial weights are drawn in the order predictor, output layer."""
    return TokenLanguageModel(predictor=predictor(vocabulary_size=vocabulary_size), vocabulary_size=vocabulary_size)
