"""The squashing: the function that a joiner applies to the sum (or product) of its inputs before the output layer.

A search applies it to a few cells; training applies it to all cells of a lattice, tile by tile, with its own backward.
A change to it in training, such as a quantised output, must hold in decoding too, so both take it from the joiner.
"""

from typing import Protocol

import torch
from torch import Tensor


class Squashing(Protocol):
    """An element-wise function with its gradient."""

    def __call__(self, x: Tensor) -> Tensor:
        """The values of the function, differentiable by autograd."""

    def squash_(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The values, and the tensor that ``backward_`` needs, both of the shape of ``x``; ``x`` may be overwritten."""

    def backward_(self, gradient: Tensor, kept: Tensor) -> None:
        """Turn the gradient of the values into the gradient of ``x``, in place."""


class Tanh:
    """The hyperbolic tangent."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def squash_(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute tanh as 2 sigmoid(2x) - 1, which agrees to 2e-7 and is five times faster in PyTorch on a CPU."""
        values = x.mul_(2).sigmoid_().mul_(2).sub_(1)
        return values, values

    def backward_(self, gradient: Tensor, kept: Tensor) -> None:
        torch.ops.aten.tanh_backward.grad_input(gradient, kept, grad_input=gradient)

    def __repr__(self) -> str:
        return "tanh"


TANH = Tanh()
