"""How often each parameter is used in a computation: the FLOPs per gradient of ScaleCom's rule for rates.

    uses(w)  =  multiplications with w / number of elements of w        of one sample: one utterance

A linear layer uses its weight once per position, a convolution once per output, a recurrent layer once per step. Where a
parameter is used often, its gradient costs much to compute and little to send, and its single entries are sums of many
terms: so it may be sent at a lower rate. The paper's figures are those of one sample: SWB300's LSTM over 21 frames is
compressed 400 times, ResNet's layers of 14 x 14 = 196 positions 25 times. Source: arXiv 2104.11125, section 4.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
COPIES = {aten.clone, aten._to_copy, aten.contiguous}  # of a parameter in another layout or precision
SCALINGS = {aten.mul, aten.div}  # of a parameter, element by element: it is quantised or masked, and stands for itself
RATES_BY_USES = ((196, 25), (128, 50), (0, 400))  # (uses from which on, rate): arXiv 2104.11125, section 4
HIGHEST_RATE = max(rate for _, rate in RATES_BY_USES)


def rate_by_uses(uses: float) -> int:
    """The paper's rate for a parameter that is used ``uses`` times for one sample."""
    return next(rate for least, rate in RATES_BY_USES if uses >= least)


def count_uses(model: nn.Module, forward: Callable[[], object]) -> dict[str, float]:
    """How often ``forward()``, on one sample, uses each parameter of ``model``, by name.

    Counted are matrix products, convolutions and recurrent layers, and lookups of embeddings by rows, also with copies of a
    parameter and with its masked or quantised values; 0 for a parameter that takes part in none of them, or has fewer than two dimensions. ``forward`` runs without
    gradient. The counts depend on shapes alone.
    """
    counter = _Counter(model.named_parameters())
    with torch.no_grad(), counter:
        forward()
    return counter.uses


class _Counter(TorchDispatchMode):
    """Sees every operator, below modules and autograd functions, and knows parameters by their addresses."""

    def __init__(self, parameters: Iterator[tuple[str, nn.Parameter]]) -> None:
        super().__init__()
        self.uses: dict[str, float] = {}
        self._sizes: dict[str, int] = {}
        self._extents: list[tuple[int, int, str]] = []  # (begin, end, name) of parameters and their copies, in order
        self._copies: list[Tensor] = []  # kept alive, so that no other tensor gets their addresses
        for name, parameter in parameters:
            self.uses[name], self._sizes[name] = 0.0, parameter.numel()
            if parameter.dim() >= 2:  # an addend of a product, such as a bias, takes no part in its multiplications
                self._know(name, parameter)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        operator = func.overloadpacket
        if operator in COPIES or (operator in SCALINGS and result.shape == args[0].shape):
            for name in self._named(args[:1]):
                self._copies.append(result)
                self._know(name, result)
        else:
            for name in self._named(args):
                self.uses[name] += self._multiplications(name, operator, args, kwargs, result) / self._sizes[name]
        return result

    def _multiplications(
        self, name: str, operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> float:
        """Number of multiplications of an operator with the parameter ``name``, which is among its arguments."""
        if operator is aten.embedding:
            return args[1].numel() * self._sizes[name] / len(args[0])
        if operator is aten.mkldnn_rnn_layer:  # the CPU's LSTM of one layer and direction, over inputs (T, B, F)
            return math.prod(args[0].shape[:2]) * self._sizes[name]
        if operator in flop_registry:
            return float(flop_registry[operator](*args, **kwargs, out_val=result)) / 2
        return 0.0

    def _named(self, args: Sequence[Any]) -> list[str]:
        """Names of the parameters among the arguments."""
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor) and leaf.numel()]
        return [name for tensor in tensors if (name := self._name_of(tensor)) is not None]

    def _know(self, name: str, tensor: Tensor) -> None:
        if tensor.numel():
            begin = tensor.data_ptr()
            self._extents.insert(bisect_right(self._extents, (begin,)), (begin, begin + tensor.nbytes, name))

    def _name_of(self, tensor: Tensor) -> str | None:
        place = bisect_right(self._extents, (tensor.data_ptr(), math.inf)) - 1
        if place < 0:
            return None
        begin, end, name = self._extents[place]
        return name if begin <= tensor.data_ptr() < end else None
