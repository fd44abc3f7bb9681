"""The weight that a layer multiplies by, for code that makes a layer's product in its own way."""

from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class ChangesWeight(Protocol):
    """A layer that multiplies by something else than its parameter ``weight``, such as its quantised values."""

    def effective_weight(self) -> Tensor:
        """The weight as it is used; gradients pass to the parameter."""


def effective_weight(layer: nn.Module) -> Tensor:
    """The weight that ``layer`` multiplies by: its parameter, unless the layer changes it."""
    return layer.effective_weight() if isinstance(layer, ChangesWeight) else cast(Tensor, layer.weight)
