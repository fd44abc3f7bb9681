"""The sizes of a model that decide what schemes send: its tensors, in the order of the forward pass."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from distributed.errors import UsageError
from distributed.schemes.scalecom import MIB

SQUARE = 1024  # width of the matrices of a model of which only the number of parameters is known


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Shapes of the parameters, all of one dtype of ``element_bytes``."""

    shapes: tuple[tuple[int, ...], ...]
    element_bytes: int = 4

    @classmethod
    def of(cls, module: nn.Module) -> "ModelSize":
        """The trained parameters of a module; UsageError if they differ in dtype."""
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        sizes = {parameter.element_size() for parameter in parameters}
        if len(sizes) != 1:
            raise UsageError(f"parameters take {sorted(sizes)} bytes per element; the simulator knows one size alone")
        return cls(tuple(tuple(parameter.shape) for parameter in parameters), sizes.pop())

    @classmethod
    def square(cls, parameters: int) -> "ModelSize":
        """As many parameters in square matrices of ``SQUARE``, the rest in a vector."""
        matrices, rest = divmod(parameters, SQUARE**2)
        return cls(((SQUARE, SQUARE),) * matrices + (((rest,),) if rest else ()))

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(map(math.prod, self.shapes))

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters."""
        return self.parameters * self.element_bytes

    @property
    def vectors(self) -> int:
        """Number of parameters in tensors of fewer than two dimensions, which sparse schemes send whole."""
        return sum(math.prod(shape) for shape in self.shapes if len(shape) < 2)

    def buckets(self, bucket_mb: float) -> list[int]:
        """Bytes of the buckets of gradients that are averaged one by one, as DistributedDataParallel makes them.

        From the last parameter on, a bucket is full with the tensor that brings it to ``bucket_mb`` MiB.
        """
        found, filled = [], 0
        for shape in reversed(self.shapes):
            filled += math.prod(shape) * self.element_bytes
            if filled >= bucket_mb * MIB:
                found.append(filled)
                filled = 0
        return [*found, filled] if filled else found


def filled_shares(buckets: Sequence[int]) -> list[float]:
    """The share of backward after which each bucket is full, for gradients that come at an even pace."""
    total = sum(buckets)
    return [sum(buckets[: place + 1]) / total for place in range(len(buckets))]
