"""Convolutional subsampling: four feature frames become one state.

Two 3x3 convolutions of stride 2 over time and frequency, then a projection (Gulati et al. 2020, arXiv 2005.08100,
section 2). Frames beyond an utterance's end are zeroed before each convolution: they are the zero padding that the
utterance would see alone. With one frame of padding at each end, T becomes ceil(T / 2) twice, which is ceil(T / 4).

B utterances   T frames   F feature dimension   C channels (the two convolutions may differ)   D output dimension
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from asr.models.encoder import ceil_divide, padding_mask
from asr.models.strided_convolution import StridedConv2d

FACTOR = 4  # two strides of 2


class ConvSubsampling(nn.Module):
    """(B, T, F) features to (B, ceil(T/4), D)."""

    def __init__(self, *, feature_dimension: int, channels: int | Sequence[int], dimension: int) -> None:
        super().__init__()
        first, second = (channels, channels) if isinstance(channels, int) else channels
        self.first = StridedConv2d(1, first, kernel_size=3, stride=2, padding=1)
        self.second = StridedConv2d(first, second, kernel_size=3, stride=2, padding=1)
        self.project = nn.Linear(second * -(-feature_dimension // FACTOR), dimension)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Subsampled frames and their lengths; frames beyond the lengths are not zeroed again."""
        features_BTF = features_BTF.masked_fill(padding_mask(lengths_B, features_BTF.shape[1]).unsqueeze(-1), 0.0)
        # One channel laid out as the last axis: the convolutions then stay channels-last, which is faster on CPUs
        # and makes the flattening below a view.
        x_BCTF = self.first(features_BTF.unsqueeze(-1).permute(0, 3, 1, 2))
        lengths_B = ceil_divide(lengths_B, 2)
        x_BCTF = masked_silu(x_BCTF, padding_mask(lengths_B, x_BCTF.shape[2])[:, None, :, None])
        x_BCTF = functional.silu(self.second(x_BCTF))
        return self.project(x_BCTF.permute(0, 2, 3, 1).flatten(2)), ceil_divide(lengths_B, 2)


def masked_silu(x: Tensor, hidden: Tensor) -> Tensor:
    """SiLU of ``x``, 0 where ``hidden`` (which broadcasts) is True, without a copy of ``x`` in either pass."""
    if torch.onnx.is_in_onnx_export():
        return functional.silu(x.masked_fill(hidden, 0.0))
    activated: Tensor = _MaskedSilu.apply(x, hidden)
    return activated


class _MaskedSilu(torch.autograd.Function):
    """Zeroes what it has just made, in place, in forward and in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, hidden: Tensor) -> Tensor:
        ctx.save_for_backward(x, hidden)
        return functional.silu(x).masked_fill_(hidden, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, hidden = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient, x).masked_fill_(hidden, 0.0), None
