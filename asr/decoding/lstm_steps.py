"""An LSTM prediction network and the linear layer that reads it, in a third of the operators, for searches on a CPU.

A search takes thousands of steps of a few rows each, and torch's LSTM is made for sequences: a step takes 90 us of setup, or ten
times that of a large one, whatever the rows. What is done once per search instead:

* the products of the first layer with all embeddings, a table, if as many rows will be read as there are tokens;
* a layer's output has one product, with the recurrent weights and with those of what reads it, side by side; the state
  keeps the products. All that hypotheses carry along is one tensor;
* tanh(x) is 2 sigmoid(2x) - 1, which on a CPU takes a fifth of the time, with the factors in the weights.

n hypotheses   V tokens   E embedding dimension   D predictor dimension   G = 4D gates: input, forget, candidate, output   O outputs
of the linear layer   X = G or O
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.models.dropout import Dropout
from asr.models.predictor import LstmPredictor, State
from asr.models.recurrence import Lstm

FULL_BYTES = 4  # of a number: constants that cancel would not survive half precision


class LstmSteps:
    """The prediction network, and of its outputs y the products y A + b: the same to rounding.

    The state is one tensor: of each layer the recurrent products (G), the outputs of the linear layer (O), of each layer the cells (D).
    """

    def __init__(self, predictor: LstmPredictor, weight_OD: Tensor, bias_O: Tensor, reads: int) -> None:
        """``reads``: about so many rows will be read."""
        self.layers, self.size, self.outputs = predictor.lstm.num_layers, predictor.dimension, len(weight_OD)
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
        readers.append((weight_OD, bias_O))
        # Layers give their outputs with the sign changed, which their readers change back.
        out_XD = [torch.cat([doubled_candidates(recurrent[i]), weight_XD]) for i, (weight_XD, _) in enumerate(readers)]
        self.out_DX = [weight_XD.t().neg().contiguous() for weight_XD in out_XD]
        self.out_bias_X = [torch.cat([torch.zeros_like(self.bias_G), bias_X]) for _, bias_X in readers]

    @staticmethod
    def suit(predictor: LstmPredictor, device: torch.device, readers: Sequence[nn.Module]) -> bool:
        """Whether steps give what these modules would: on a CPU, none is changed or observed, and nobody wants gradients."""
        if device.type != "cpu" or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return False
        kinds: dict[type[nn.Module], Sequence[nn.Module]] = {
            LstmPredictor: [predictor],
            nn.Embedding: [predictor.embedding],
            Dropout: [predictor.embedding_dropout, predictor.dropout],
            Lstm: [predictor.lstm],
            nn.Linear: readers,
        }
        if not unchanged(kinds):
            return False
        lstm = predictor.lstm
        shaped = lstm.bias and not lstm.bidirectional and not lstm.proj_size and lstm.hidden_size == predictor.dimension
        biased = all(each.bias is not None for each in readers)
        return bool(shaped and biased) and predictor.embedding.weight.dtype.itemsize >= FULL_BYTES

    def start(self, size: int, device: torch.device, dtype: torch.dtype) -> State:
        """A state of zeros."""
        return (torch.zeros(size, self.layers * 5 * self.size + self.outputs, device=device, dtype=dtype),)

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

    def output(self, state: State) -> Tensor:
        """What the linear layer has made of the last output (n, O): a view."""
        return state[0].narrow(1, 4 * self.layers * self.size, self.outputs)

    def _inputs(self, tokens_n: Tensor) -> Tensor:
        """(n, G) products of the first layer with embeddings, biases included."""
        if self.table_VG is not None:
            return self.table_VG.index_select(0, tokens_n)
        return torch.addmm(self.bias_G, self.embedding_VE.index_select(0, tokens_n), self.input_GE.t())


def unchanged(kinds: Mapping[type[nn.Module], Sequence[nn.Module]]) -> bool:
    """Whether all modules are of their very class, in evaluation, and without hooks, inside too."""
    parts = [part for modules in kinds.values() for module in modules for part in module.modules()]
    if any(each._forward_hooks or each._forward_pre_hooks or each.training for each in parts):
        return False
    return all(type(each) is kind for kind, modules in kinds.items() for each in modules)


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
