"""All parameters of a module as views of one contiguous buffer per dtype, and their gradients likewise.

A snapshot is then one copy, a message one buffer and mixing one operation, however many parameters there are. The
Parameter objects stay the same ones; only their storage moves. Tied parameters (one object in several places) lie in
the buffer once. Frozen parameters lie in it too, so that one that is unfrozen later is already mixed, but have no
gradient until then, as optimizers would decay them. Each parameter starts at a multiple of 64 bytes, for vectorised
kernels; the padding between them is zero and stays zero.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from distributed.errors import UsageError

ALIGNMENT_BYTES = 64


class FlatParameters:
    """Moves the parameters of ``module`` into flat buffers, and their gradients if ``gradients``.

    ``flat`` and ``flat_grad`` hold one buffer of shape (elements,) per dtype and device, in order of appearance;
    ``flat_grad`` is empty without ``gradients``. ``order`` gives, by name, what to sort the parameters by; those of
    the same order lie together, in order of appearance. ValueError if two parameters share memory without being one
    object: flattening would silently untie them.
    """

    def __init__(
        self, module: nn.Module, gradients: bool, order: Callable[[str, nn.Parameter], tuple[int, ...]] | None = None
    ) -> None:
        self._module = module
        self._named = dict(module.named_parameters())
        if order is not None:
            self._named = dict(sorted(self._named.items(), key=lambda item: order(*item)))
        _refuse_shared_memory(self._named)
        sizes = _padded_sizes(self._named.values())
        self.flat = [torch.zeros(size, dtype=dtype, device=device) for (dtype, device), size in sizes.items()]
        self.flat_grad = [torch.zeros_like(flat) for flat in self.flat] if gradients else []
        with torch.no_grad():
            self._views = self._carve(self.flat)
            for parameter, view in zip(self._named.values(), self._views, strict=True):
                view.copy_(parameter)
                parameter.data = view
        self._grad_views = self._carve(self.flat_grad) if gradients else []
        self.zero_grad()

    def zero_grad(self) -> None:
        """Zero the gradients in place; with flat gradients, make them views again where something replaced them."""
        if not self.flat_grad:
            self._module.zero_grad(set_to_none=False)
            return
        for flat_grad in self.flat_grad:
            flat_grad.zero_()
        for parameter, view in zip(self._named.values(), self._grad_views, strict=True):
            wanted = view if parameter.requires_grad else None
            if parameter.grad is not wanted:
                parameter.grad = wanted

    def views_of(self, buffers: Sequence[Tensor]) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Every parameter with the view of its elements in ``buffers``, which have the shapes of ``flat``."""
        return zip(self._named.values(), self._carve(buffers), strict=True)

    def named_views(self, buffers: Sequence[Tensor]) -> dict[str, Tensor]:
        """The views that ``views_of`` gives, by the parameter's name."""
        return dict(zip(self._named, self._carve(buffers), strict=True))

    def verify(self) -> None:
        """Check that every parameter of the module still lies in the flat buffer; ValueError names one that does not."""
        views = dict(zip(self._named, self._views, strict=True))
        for name, parameter in self._module.named_parameters():
            if name not in views or not _same_memory(parameter, views[name]):
                raise UsageError(
                    f"parameter {name!r} no longer lies in the flat buffer: something replaced it or moved its storage "
                    "after the backend wrapped the model; replace modules in hook.on_model, which runs before"
                )

    def _carve(self, buffers: Sequence[Tensor]) -> list[Tensor]:
        """One view per parameter, laid out in order within the buffer that stands for its dtype and device."""
        keys = [_key(flat) for flat in self.flat]
        by_key, used = dict(zip(keys, buffers, strict=True)), dict.fromkeys(keys, 0)
        views = []
        for parameter in self._named.values():
            start = used[_key(parameter)]
            views.append(by_key[_key(parameter)][start : start + parameter.numel()].view(parameter.shape))
            used[_key(parameter)] = start + _padded_size(parameter)
        return views


def _key(parameter: Tensor) -> tuple[torch.dtype, torch.device]:
    return parameter.dtype, parameter.device


def _padded_size(parameter: Tensor) -> int:
    elements = ALIGNMENT_BYTES // parameter.element_size()
    return -(-parameter.numel() // elements) * elements


def _padded_sizes(parameters: Iterable[Tensor]) -> dict[tuple[torch.dtype, torch.device], int]:
    sizes: dict[tuple[torch.dtype, torch.device], int] = {}
    for parameter in parameters:
        sizes[_key(parameter)] = sizes.get(_key(parameter), 0) + _padded_size(parameter)
    return sizes


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


def _refuse_shared_memory(named: dict[str, nn.Parameter]) -> None:
    extents = sorted((p.data_ptr(), p.data_ptr() + p.numel() * p.element_size(), name) for name, p in named.items())
    for (_, end, name), (start, _, other) in pairwise(extents):
        if start < end:
            raise UsageError(
                f"parameters {name!r} and {other!r} share memory but are two objects, so that flattening would untie "
                "them; tie them by assigning the same nn.Parameter to both modules"
            )
