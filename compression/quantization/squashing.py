"""The joiner's tanh on few levels: round(n tanh(x)) / n, with the gradient of tanh.

The output layer then reads codes. A search and the tiled loss use the same formula, so that they agree on every code.
"""

from typing import Any

import torch
from torch import Tensor

from asr.losses.squashing import TANH
from compression.quantization.weights import levels


class _Round(torch.autograd.Function):
    """round(n x) / n with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, largest_code: int) -> Tensor:
        return (x * largest_code).round_().div_(largest_code)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], None


class CodedTanh:
    """A squashing (asr/losses/squashing.py) whose values are codes / n; the bound of 1 is that of tanh itself."""

    def __init__(self, *, bits: int) -> None:
        self.bits = bits

    def __call__(self, x: Tensor) -> Tensor:
        """2 sigmoid(2x) - 1, the formula of ``squash_``, rounded."""
        values: Tensor = _Round.apply(torch.sigmoid(2 * x) * 2 - 1, levels(self.bits))
        return values

    def squash_(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The rounded values, and tanh itself, of which ``backward_`` makes the gradient."""
        values, kept = TANH.squash_(x)
        return (values * levels(self.bits)).round_().div_(levels(self.bits)), kept

    def backward_(self, gradient: Tensor, kept: Tensor) -> None:
        """Multiply by 1 - tanh^2, in place."""
        TANH.backward_(gradient, kept)

    def step(self) -> float:
        """The step of the codes that the output layer reads."""
        return 1 / levels(self.bits)

    def codes(self, x: Tensor) -> Tensor:
        """The codes -n ... n: code x step = the values."""
        return (self(x.detach()) * levels(self.bits)).round_()

    def __repr__(self) -> str:
        return f"CodedTanh(bits={self.bits})"
