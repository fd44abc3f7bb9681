"""The networks of scripts/bench/large_batch.py: what they classify spoken digits from, and how their weights begin.

N recordings   F mels   T stretches of time   H cells
"""

import torch
from torch import Tensor, nn

from scripts.bench.spoken_digits import MELS

STRETCHES, STACKED = 24, 3  # of time in a recording, and how many of them an LSTM reads at once
LAYERS, CELLS = 4, 48
SPREAD = 2.5  # of the LSTM's first weights, in units of PyTorch's own 1 / sqrt(H)
HIDDEN = 50  # of each of two layers, as in arXiv 2112.01433, section 2.2


class LstmLayer(nn.Module):
    """One direction, one bias, from a state of 0; unlike nn.LSTM it can be computed for the weights of many learners at once."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(4 * CELLS, inputs))
        self.weight_hh = nn.Parameter(torch.empty(4 * CELLS, CELLS))
        self.bias = nn.Parameter(torch.empty(4 * CELLS))

    def forward(self, inputs_NTF: Tensor) -> Tensor:
        """Outputs, (N, T, H)."""
        from_inputs = inputs_NTF @ self.weight_ih.T + self.bias
        hidden_NH = cell_NH = inputs_NTF.new_zeros(len(inputs_NTF), CELLS)
        outputs = []
        for at_time in from_inputs.unbind(1):
            opened, candidate = (at_time + hidden_NH @ self.weight_hh.T).split((3 * CELLS, CELLS), 1)
            enter, keep, leave = opened.sigmoid().chunk(3, 1)
            cell_NH = keep * cell_NH + enter * candidate.tanh()
            hidden_NH = leave * cell_NH.tanh()
            outputs.append(hidden_NH)
        return torch.stack(outputs, 1)


class DeepLstm(nn.Module):
    """Four layers without any normalisation; the last state decides. Wide first weights make the loss rough."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(LstmLayer(STACKED * MELS), *(LstmLayer(CELLS) for _ in range(LAYERS - 1)))
        self.output = nn.Linear(CELLS, 10)
        for parameter in self.parameters():
            bound = (1.0 if parameter.dim() == 1 else SPREAD) / CELLS**0.5
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, inputs_NF: Tensor) -> Tensor:
        """Scores of the ten digits, (N, 10), from flattened (mels, stretches)."""
        times = inputs_NF.view(-1, MELS, STRETCHES).transpose(1, 2)
        states: Tensor = self.layers(times.reshape(len(inputs_NF), STRETCHES // STACKED, STACKED * MELS))
        scores: Tensor = self.output(states[:, -1])
        return scores


def perceptron() -> nn.Module:
    """The network of the paper: two hidden layers of 50."""
    widths = (MELS * STRETCHES, HIDDEN, HIDDEN)
    hidden = [part for i in range(2) for part in (nn.Linear(widths[i], widths[i + 1]), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(HIDDEN, 10))
