"""Base of all encoders: features in, states at a lower frame rate out, and no influence of padding.

B utterances   T feature frames   F feature dimension   T' = ceil(T / subsampling) states   D state dimension
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Encoder(nn.Module, ABC):
    """Base of all encoders. An utterance's states depend neither on its padding nor on its batch mates."""

    dimension: int
    """D, the size of one state."""

    subsampling: int
    """Feature frames per state: T frames become exactly ceil(T / subsampling) states."""

    layers: nn.ModuleList
    """Its layers, from the features on; each gives out states (B, T', ...)."""

    layer_dimensions: list[int]
    """Size of one state of each layer's output; the last one is D."""

    recomputed: frozenset[int] = frozenset()
    """Layers, by their number, of which training keeps the input alone: backward computes them again.

    For this ``forward`` computes every layer by ``through_layer``.
    """

    @abstractmethod
    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, T', D), zero beyond their lengths, and their lengths (B,). Every length is at least 1."""

    def through_layer(self, number: int, *inputs: Any) -> Tensor:
        """The output (B, T', ...) of layer ``number`` on what it takes. One that is computed again draws the same random numbers."""
        layer = self.layers[number]
        again = number in self.recomputed and self.training and torch.is_grad_enabled()
        output: Tensor = checkpoint(layer, *inputs, use_reentrant=False) if again else layer(*inputs)
        return output

    def state_lengths(self, lengths_B: Tensor) -> Tensor:
        """Number of states (B,) of utterances with ``lengths_B`` feature frames."""
        return ceil_divide(lengths_B, self.subsampling)


def ceil_divide(lengths_B: Tensor, divisor: int) -> Tensor:
    """ceil(length / divisor) in integers."""
    return torch.div(lengths_B + (divisor - 1), divisor, rounding_mode="floor")


def padding_mask(lengths_B: Tensor, frames: int) -> Tensor:
    """(B, frames) bool: True where a frame lies beyond its utterance's end."""
    return torch.arange(frames, device=lengths_B.device) >= lengths_B.unsqueeze(1)
