"""The three networks of sherpa-onnx's stateless transducer layout: encoder, decoder (its word for the predictor), joiner.

Tensors go by position; names are free. Projections into the joint space lie in encoder and decoder. The client keeps the
last ``context`` symbols of a hypothesis, which begins as ``context`` - 1 times -1 and then blank, and reads them anew after
each symbol. A stateless predictor needs its own context. An LSTM runs over all of them from its start, which is exact
as long as a text has fewer tokens than ``context``; steps beyond the text are not computed.

N utterances or hypotheses   T frames   F mel bins   T' states   K context   J joint dimension   V vocabulary size
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.data.features import LogMel
from asr.export.front_end import FrontEnd
from asr.export.lstm import exported_lstm, with_onnx_lstms
from asr.models.encoder import Encoder
from asr.models.joiner import Joiner
from asr.models.predictor import LstmPredictor, StatelessPredictor


class EncoderNetwork(nn.Module):
    """x (N, T, F) log-mel energies and x_lens (N,) to encoder_out (N, T', J) and encoder_out_lens (N,)."""

    def __init__(self, features: LogMel, encoder: Encoder, joiner: Joiner) -> None:
        super().__init__()
        self.front_end = FrontEnd(features)
        self.encoder = with_onnx_lstms(encoder)
        self.project = joiner.project_encoder

    def forward(self, x_NTF: Tensor, lengths_N: Tensor) -> tuple[Tensor, Tensor]:
        """The projected states and their lengths."""
        states_NTD, lengths_N = self.encoder(*self.front_end(x_NTF, lengths_N))
        return self.project(states_NTD), lengths_N


class StatelessDecoder(nn.Module):
    """y (N, K) to decoder_out (N, J); symbols of -1 are zero vectors, as in training before the start symbol."""

    def __init__(self, predictor: StatelessPredictor, joiner: Joiner) -> None:
        super().__init__()
        self.predictor = predictor
        self.project = joiner.project_predictor
        self.context = predictor.context

    def forward(self, y_NK: Tensor) -> Tensor:
        """The projected output after the last symbol."""
        embedded_NKD = self.predictor.embedding(y_NK.clamp(min=0)) * (y_NK >= 0).unsqueeze(2)
        mixed_NKD = self.predictor.mix(embedded_NKD.transpose(1, 2)).transpose(1, 2)
        return self.project(functional.relu(mixed_NKD).squeeze(1))


class LstmDecoder(nn.Module):
    """y (N, K) to decoder_out (N, J): an LSTM over the symbols that are not -1, from its start."""

    def __init__(self, predictor: LstmPredictor, joiner: Joiner, context: int) -> None:
        super().__init__()
        self.embedding = predictor.embedding
        self.lstm = exported_lstm(predictor.lstm)
        self.project = joiner.project_predictor
        self.context = context

    def forward(self, y_NK: Tensor) -> Tensor:
        """The projected output after the last symbol."""
        count_N = (y_NK >= 0).sum(1)
        places_NK = torch.arange(self.context, device=y_NK.device)[None] + (self.context - count_N)[:, None]
        aligned_NK = y_NK.gather(1, places_NK.clamp(max=self.context - 1)).clamp(min=0)
        return self.project(self.lstm.last(self.embedding(aligned_NK), count_N))


class JoinerNetwork(nn.Module):
    """Two projected inputs (N, J) to logit (N, V)."""

    def __init__(self, joiner: Joiner) -> None:
        super().__init__()
        self.joiner = joiner

    def forward(self, encoder_NJ: Tensor, decoder_NJ: Tensor) -> Tensor:
        """Scores of all symbols, blank first."""
        return self.joiner.logits(encoder_NJ, decoder_NJ)
