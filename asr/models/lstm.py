"""The bidirectional LSTM encoder (Saon et al. 2021, arXiv 2103.09935, section 2).

Each ``stack`` consecutive frames become one wider frame, then LSTM layers read it in both directions, with dropout
after each. The backward direction reads every utterance reversed within its own length, so that both directions end
in padding and never begin in it: exact without packed sequences, which are slower on CPUs and wait for a GPU.

B utterances   T frames   F feature dimension   S = ceil(T / stack) states   D cells of both directions of the last layer
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asr.data.context import stack_frames
from asr.models.dropout import Dropout
from asr.models.encoder import Encoder, padding_mask
from asr.models.recurrence import Lstm
from distributed.errors import UsageError
from distributed.ranges import Count, Depth, Probability


class BidirectionalLayer(nn.Module):
    """Two LSTMs over the same states, one of which reads them backwards; outputs side by side."""

    def __init__(self, *, input_dimension: int, hidden: tuple[int, int]) -> None:
        super().__init__()
        self.left_to_right = Lstm(input_dimension, hidden[0], batch_first=True)
        self.right_to_left = Lstm(input_dimension, hidden[1], batch_first=True)

    def forward(self, x_BSD: Tensor, reversal_N: Tensor) -> Tensor:
        """(B, S, input dimension) to (B, S, cells of both directions). ``reversal_N`` is ``reversal(lengths, S)``."""
        rightward_BSH, _ = self.left_to_right(x_BSD)
        leftward_BSH, _ = self.right_to_left(reorder(x_BSD, reversal_N))
        return torch.cat([rightward_BSH, reorder(leftward_BSH, reversal_N)], dim=-1)


class BidirectionalLstm(Encoder):
    """Frame stacking, then ``layers`` bidirectional LSTM layers of ``hidden`` cells per direction.

    ``hidden`` may also be a list, for each layer its cells from left to right and from right to left.
    """

    def __init__(
        self,
        *,
        feature_dimension: int,
        stack: Count,
        layers: Depth,
        hidden: Count | list[tuple[Count, Count]],
        dropout: Probability,
    ) -> None:
        super().__init__()
        cells = cells_per_layer(hidden, layers)
        self.layer_dimensions = [sum(both) for both in cells]
        self.dimension = self.layer_dimensions[-1]
        self.subsampling = stack
        inputs = [stack * feature_dimension, *self.layer_dimensions[:-1]]
        self.layers = nn.ModuleList(
            BidirectionalLayer(input_dimension=size, hidden=both) for size, both in zip(inputs, cells, strict=True)
        )
        self.dropout = Dropout(dropout)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, ceil(T/stack), D), zero beyond their lengths, and their lengths (B,)."""
        padding_BT = padding_mask(lengths_B, features_BTF.shape[1])
        x_BSD = stack_frames(features_BTF.masked_fill(padding_BT.unsqueeze(-1), 0.0), self.subsampling)
        lengths_B = self.state_lengths(lengths_B)
        reversal_N = reversal(lengths_B, x_BSD.shape[1])
        for number in range(len(self.layers)):
            x_BSD = self.dropout(self.through_layer(number, x_BSD, reversal_N))
        return x_BSD.masked_fill(padding_mask(lengths_B, x_BSD.shape[1]).unsqueeze(-1), 0.0), lengths_B


def cells_per_layer(hidden: int | Sequence[tuple[int, int]], layers: int) -> list[tuple[int, int]]:
    """Number of cells of both directions, for each layer; ValueError if a list does not have ``layers`` entries."""
    if isinstance(hidden, int):
        return [(hidden, hidden)] * layers
    if len(hidden) != layers:
        raise UsageError(
            f"model.encoder.hidden has {len(hidden)} entries and model.encoder.layers={layers}; give one pair a layer"
        )
    return [(rightward, leftward) for rightward, leftward in hidden]


def reversal(lengths_B: Tensor, states: int) -> Tensor:
    """Permutation of the N = B x S states that reverses each utterance within its length; it is its own inverse."""
    position_S = torch.arange(states, device=lengths_B.device)
    mirrored_BS = lengths_B.unsqueeze(1) - 1 - position_S
    position_BS = torch.where(mirrored_BS >= 0, mirrored_BS, position_S)
    offset_B = states * torch.arange(lengths_B.shape[0], device=lengths_B.device)
    return (position_BS + offset_B.unsqueeze(1)).flatten()


def reorder(x_BSD: Tensor, reversal_N: Tensor) -> Tensor:
    """The states in the order of ``reversal_N``."""
    return x_BSD.flatten(0, 1).index_select(0, reversal_N).view(x_BSD.shape)
