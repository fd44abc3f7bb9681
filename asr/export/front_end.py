"""From log-mel energies to a model's input, inside the exported graph: the client computes the energies alone.

The same as ``LogMel.normalise`` and ``LogMel.in_context``, for a padded batch: what lies beyond an utterance's end has no
influence, whatever the client pads with.

B utterances   T frames   F mel bins   S = ceil(T / stack)   D = stack x (1 + deltas) x F
"""

import torch
from torch import Tensor, nn

from asr.data.context import WINDOW, slopes, stack_frames
from asr.data.features import VARIANCE_FLOOR, LogMel
from asr.models.encoder import ceil_divide, padding_mask


def normalise_padded(mel_BTF: Tensor, lengths_B: Tensor) -> Tensor:
    """Zero mean and unit variance of every bin over each utterance's own frames; padding becomes 0."""
    padding_BT1 = padding_mask(lengths_B, mel_BTF.shape[1]).unsqueeze(2)
    count_B11 = lengths_B[:, None, None].to(mel_BTF.dtype)
    mean_B1F = mel_BTF.masked_fill(padding_BT1, 0.0).sum(1, keepdim=True) / count_B11
    centred_BTF = (mel_BTF - mean_B1F).masked_fill(padding_BT1, 0.0)
    variance_B1F = centred_BTF.square().sum(1, keepdim=True) / count_B11
    return centred_BTF * variance_B1F.clamp_min(VARIANCE_FLOOR).rsqrt()


def with_deltas_padded(x_BTF: Tensor, lengths_B: Tensor, orders: int) -> Tensor:
    """(B, T, F) to (B, T, (1 + orders) x F): as ``with_deltas`` of each utterance alone; padding has no meaning."""
    frames, reach = x_BTF.shape[1], WINDOW * orders
    places_R = torch.arange(-reach, frames + reach, device=x_BTF.device)
    inside_BR = torch.minimum(places_R.clamp(min=0)[None], lengths_B[:, None] - 1)
    wide_BRF = x_BTF.gather(1, inside_BR[..., None].expand(-1, -1, x_BTF.shape[2]))
    parts = [x_BTF]
    for order in range(1, orders + 1):
        wide_BRF = slopes(wide_BRF.transpose(0, 1)).transpose(0, 1)
        margin = WINDOW * (orders - order)
        parts.append(wide_BRF[:, margin : margin + frames])
    return torch.cat(parts, dim=2)


class FrontEnd(nn.Module):
    """The steps after the mel filters, with the settings of a ``LogMel``."""

    def __init__(self, features: LogMel) -> None:
        super().__init__()
        self.by_utterance = features.normalisation == "utterance"
        self.deltas = features.deltas
        self.stack = features.stack

    def forward(self, mel_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """The model's input (B, S, D) and its lengths (B,)."""
        x_BTF = normalise_padded(mel_BTF, lengths_B) if self.by_utterance else mel_BTF
        if self.deltas:
            x_BTF = with_deltas_padded(x_BTF, lengths_B, self.deltas)
        if self.stack == 1:
            return x_BTF, lengths_B
        padding_BT1 = padding_mask(lengths_B, x_BTF.shape[1]).unsqueeze(2)
        return stack_frames(x_BTF.masked_fill(padding_BT1, 0.0), self.stack), ceil_divide(lengths_B, self.stack)
