"""Maps the cells of a ragged batch's lattices to rows of the joiner's inputs.

Packed cells are the valid ones, utterance after utterance, frame after frame. A tile is any list of them: their encoder
states and predictions are rows of the flattened inputs. All indices are 64-bit integers.

B utterances   T frames   S = U + 1 states   R = B T encoder rows   Q = B S predictor rows   n cells of a tile
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from asr.losses.inputs import LossInputs
from asr.losses.lattice import Shape


@dataclass(frozen=True, slots=True)
class Cells:
    """Cells of a tile, (n,) each: row of the encoder's states, row of the predictions, and the label that leaves it."""

    encoder_n: Tensor
    predictor_n: Tensor
    label_n: Tensor


@dataclass(frozen=True, slots=True)
class CellIndex:
    """Maps indices of packed cells to rows of the flattened inputs."""

    starts_B: Tensor  # the first packed cell of each utterance
    states_B: Tensor  # S of each utterance
    padded_frames: int  # T of the padded batch
    padded_states: int  # S of the padded batch
    label_Q: Tensor  # label that leaves the cells of a predictor row; blank is the placeholder after the last label

    @staticmethod
    def build(inputs: LossInputs, shape: Shape) -> "CellIndex":
        """Build the index of ``inputs``, on their device."""
        device = inputs.encoder_BTJ.device
        cells_B, states_B = torch.tensor(shape.cells, device=device), torch.tensor(shape.states, device=device)
        batch, padded_states, _ = inputs.predictor_BSJ.shape
        most = max(shape.states) - 1
        used_BU = torch.arange(most, device=device) < states_B[:, None] - 1
        label_BS = torch.full((batch, padded_states), inputs.blank, device=device)
        label_BS[:, :most] = torch.where(used_BU, inputs.targets_BU[:, :most].to(device), inputs.blank)
        starts_B = cells_B.cumsum(0) - cells_B
        return CellIndex(starts_B, states_B, inputs.encoder_BTJ.shape[1], padded_states, label_BS.flatten())

    def utterances(self, packed_n: Tensor) -> Tensor:
        """The utterance that each of these packed cells belongs to."""
        return torch.bucketize(packed_n, self.starts_B, right=True) - 1

    def locate(self, packed_n: Tensor) -> Cells:
        """The cells at these indices among the packed cells."""
        utterance_n = self.utterances(packed_n)
        place_n, states_n = packed_n - self.starts_B[utterance_n], self.states_B[utterance_n]
        frame_n = place_n // states_n
        encoder_n = utterance_n * self.padded_frames + frame_n
        predictor_n = utterance_n * self.padded_states + place_n - frame_n * states_n
        return Cells(encoder_n, predictor_n, self.label_Q[predictor_n])
