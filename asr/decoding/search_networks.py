"""Prediction network and joiner as a beam search reads them: thousands of steps of a few rows each.

``networks_of`` chooses: the modules themselves, or for an LSTM on a CPU the same arithmetic in a third of the operators, whose
results agree to rounding. torch's LSTM is made for sequences: a step takes 90 us of setup, whatever the rows. What is done
once per search instead:

* the products of the first layer with all embeddings, a table, if as many rows will be read as there are tokens;
* a layer's output has one product, with the recurrent weights and with those of what reads it, side by side; the state
  keeps the products. All that hypotheses carry along is one tensor;
* tanh(x) is 2 sigmoid(2x) - 1, which on a CPU takes a fifth of the time, with the factors in the weights.

B utterances   T frames   n hypotheses   V tokens   E embedding dimension   D predictor dimension   G = 4D gates: input, forget,
candidate, output   J joint dimension   X = G or J
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.decoding.search import Model
from asr.losses.squashing import TANH
from asr.models.dropout import Dropout
from asr.models.joiner import Joiner
from asr.models.predictor import LstmPredictor, State
from asr.models.recurrence import Lstm

FEW_ROWS = 32
FULL_BYTES = 4  # of a number: the output's constants cancel, which half precision would not survive


class Networks(Protocol):
    """What a beam search asks of a transducer. Each tensor of a ``State`` has the hypotheses as its first axis."""

    def project_encoder(self, states_BTD: Tensor, /) -> Tensor:
        """(B, T, D) to (B, T, J)."""

    def start(self, size: int, device: torch.device, dtype: torch.dtype) -> State:
        """The state that has read nothing; the first ``read`` reads BLANK."""

    def read(self, tokens_n: Tensor, state: State) -> State:
        """The state after one more token each."""

    def logits(self, encoder_nJ: Tensor, state: State) -> Tensor:
        """Scores (n, V) of what comes next, at one frame each."""


def networks_of(model: Model, reads: int, device: torch.device) -> Networks:
    """The networks of ``model`` for one search, which reads about ``reads`` rows."""
    fusible = device.type == "cpu" and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    predictor, joiner = model.predictor, model.joiner
    if fusible and isinstance(predictor, LstmPredictor) and isinstance(joiner, Joiner) and _plain(predictor, joiner):
        return FusedLstm(predictor, joiner, reads)
    return Modules(model)


def _plain(predictor: LstmPredictor, joiner: Joiner) -> bool:
    """Whether every part is of the very class that ``FusedLstm`` computes, in evaluation, and none is observed."""
    layers = (joiner.project_encoder, joiner.project_predictor, joiner.output)
    kinds: dict[type[nn.Module], Sequence[nn.Module]] = {
        LstmPredictor: [predictor],
        Joiner: [joiner],
        nn.Embedding: [predictor.embedding],
        Dropout: [predictor.embedding_dropout, predictor.dropout],
        Lstm: [predictor.lstm],
        nn.Linear: layers,
    }
    parts = [*predictor.modules(), *joiner.modules()]
    if any(each._forward_hooks or each._forward_pre_hooks or each.training for each in parts):
        return False
    if not all(type(each) is kind for kind, modules in kinds.items() for each in modules):
        return False
    lstm = predictor.lstm
    shaped = lstm.bias and not lstm.bidirectional and not lstm.proj_size and lstm.hidden_size == predictor.dimension
    biased = all(each.bias is not None for each in layers)
    exact = predictor.embedding.weight.dtype.itemsize >= FULL_BYTES
    return shaped and biased and exact and joiner.squashing is TANH


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

    def logits(self, encoder_nJ: Tensor, state: State) -> Tensor:
        """Scores (n, V)."""
        return self.model.joiner.logits(encoder_nJ, state[0])


class FusedLstm:
    """An LSTM and a joiner in few operators.

    The state is one tensor: of each layer the recurrent products (G), the projected output (J), of each layer the cells (D).
    """

    def __init__(self, predictor: LstmPredictor, joiner: Joiner, reads: int) -> None:
        self.layers, self.size = predictor.lstm.num_layers, predictor.dimension
        self.multiplies = joiner.combine == "multiply"
        inputs, recurrent, *biases = zip(*predictor.lstm.all_weights, strict=True)
        self.embedding_VE = predictor.embedding.weight
        self.input_GE, self.bias_G = doubled_candidates(inputs[0]), doubled_candidates(biases[0][0] + biases[1][0])
        self.table_VG: Tensor | None = None
        if len(self.embedding_VE) <= reads:
            self.table_VG = functional.linear(self.embedding_VE, self.input_GE, self.bias_G)
        readers = [
            (doubled_candidates(inputs[layer]), doubled_candidates(biases[0][layer] + biases[1][layer]))
            for layer in range(1, self.layers)
        ]
        twice = 1 if self.multiplies else 2  # of a product one factor is doubled: the encoder's
        readers.append((twice * joiner.project_predictor.weight, twice * joiner.project_predictor.bias))
        # Layers give their outputs with the sign changed, which their readers change back.
        out_XD = [torch.cat([doubled_candidates(recurrent[i]), weight_XD]) for i, (weight_XD, _) in enumerate(readers)]
        self.out_DX = [weight_XD.t().neg().contiguous() for weight_XD in out_XD]
        self.out_bias_X = [torch.cat([torch.zeros_like(self.bias_G), bias_X]) for _, bias_X in readers]
        self.joiner = joiner
        output = joiner.output
        self.output_JV = 2 * output.weight.t().contiguous()
        self.output_bias_V = (output.bias.double() - output.weight.sum(1, dtype=torch.float64)).to(output.bias.dtype)

    def project_encoder(self, states_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, J), doubled."""
        return 2 * self.joiner.project_encoder(states_BTD)

    def start(self, size: int, device: torch.device, dtype: torch.dtype) -> State:
        """A state of zeros."""
        width = self.layers * 5 * self.size + self.joiner.dimension
        return (torch.zeros(size, width, device=device, dtype=dtype),)

    def read(self, tokens_n: Tensor, state: State) -> State:
        """The next state."""
        gates = 4 * self.size
        products_nG = state[0][:, : self.layers * gates].split(gates, 1)
        cells_nD = state[0][:, -self.layers * self.size :].split(self.size, 1)
        read_nX, kept, cells = self._inputs(tokens_n), list[Tensor](), list[Tensor]()
        for layer in range(self.layers):
            minus_hidden_nD, cell_nD = lstm_cell(read_nX.add_(products_nG[layer]), cells_nD[layer])
            out_nX = torch.addmm(self.out_bias_X[layer], minus_hidden_nD, self.out_DX[layer])
            kept.append(out_nX[:, :gates] if layer + 1 < self.layers else out_nX)
            read_nX = out_nX[:, gates:]
            cells.append(cell_nD)
        return (torch.cat([*kept, *cells], 1),)

    def logits(self, encoder_nJ: Tensor, state: State) -> Tensor:
        """Scores (n, V)."""
        prediction_nJ = state[0].narrow(1, 4 * self.layers * self.size, self.joiner.dimension)
        joint_nJ = encoder_nJ * prediction_nJ if self.multiplies else encoder_nJ + prediction_nJ
        return torch.addmm(self.output_bias_V, joint_nJ.sigmoid_(), self.output_JV)

    def _inputs(self, tokens_n: Tensor) -> Tensor:
        """(n, G) products of the first layer with embeddings, biases included."""
        if self.table_VG is not None:
            return self.table_VG.index_select(0, tokens_n)
        return torch.addmm(self.bias_G, self.embedding_VE.index_select(0, tokens_n), self.input_GE.t())


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


def doubled_candidates(weight_G: Tensor) -> Tensor:
    """Rows (G, ...) with those of the candidates doubled."""
    doubled_G = weight_G.clone()
    doubled_G.chunk(4)[2].mul_(2)
    return doubled_G


def lstm_cell(gates_nG: Tensor, cell_nD: Tensor) -> tuple[Tensor, Tensor]:
    """The next hidden states with the sign changed and the next cells; the gates, candidates doubled, are overwritten."""
    input_nD, forget_nD, candidate_nD, output_nD = gates_nG.sigmoid_().chunk(4, 1)
    next_nD = (forget_nD * cell_nD).addcmul_(input_nD, candidate_nD, value=2).sub_(input_nD)
    return torch.addcmul(output_nD, output_nD, (next_nD + next_nD).sigmoid_(), value=-2), next_nD
