"""Which entries of a gradient are sent, the largest of every chunk, and the memory of those that are not.

A flat vector is cut into chunks of ``rate`` entries (the last one may be shorter) and the entry of the largest
magnitude of each is chosen: exactly ceil(N / rate) of N, in O(N) without sorting, and an index is an offset below
``rate``. Source: ScaleCom, arXiv 2104.11125, section 3.2 ("chunk-wise sort") and Algorithm 1.

N: entries of a vector; k = ceil(N / rate): its chunks. Vectors have shape (N,), offsets and positions (k,).
"""

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK_ENTRIES = 1 << 16  # on a CPU temporaries of this size stay in its cache: one pass over memory instead of three


def chunks(length: int, rate: int) -> int:
    """Number of chunks of a vector of ``length`` entries."""
    return -(-length // rate)


def offset_dtype(rate: int) -> torch.dtype:
    """The smallest integer type that holds every offset below ``rate``."""
    return torch.uint8 if rate <= 1 << 8 else torch.uint16 if rate <= 1 << 16 else torch.int32


def largest_of_chunks(memory: Tensor, gradient: Tensor, rate: int) -> Tensor:
    """Offset within its chunk of the entry with the largest |memory + gradient|, as int64 of shape (k,)."""
    return _of_blocks(memory, gradient, rate, torch.add)


def largest_of_differences(one: Tensor, other: Tensor, rate: int) -> Tensor:
    """The same of |one - other|."""
    return _of_blocks(one, other, rate, torch.sub)


def _of_blocks(one: Tensor, other: Tensor, rate: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    block = max(1, BLOCK_ENTRIES // rate) * rate if one.device.type == "cpu" else max(1, one.numel())
    pairs = zip(one.split(block), other.split(block), strict=True)
    found = [_largest(combine(a, b).abs_(), rate) for a, b in pairs if a.numel()]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=one.device)


def _largest(magnitudes: Tensor, rate: int) -> Tensor:
    whole = magnitudes.numel() // rate * rate
    offsets = magnitudes[:whole].view(-1, rate).max(1).indices
    rest = magnitudes[whole:]
    return torch.cat([offsets, rest.max(0, keepdim=True).indices]) if rest.numel() else offsets


def positions_of(offsets: Tensor, rate: int) -> Tensor:
    """Positions (k,) in the vector, from the offsets (k,) within its chunks."""
    return torch.arange(0, len(offsets) * rate, rate, device=offsets.device).add_(offsets)


def update_memory(memory: Tensor, gradient: Tensor, index: Tensor | slice, unsent: Tensor, beta: float) -> None:
    """m  <-  (1 - beta) m + beta (m + g - sent), in place.

    ``unsent``, shape (k,), is m + g - sent at the positions ``index``; elsewhere sent is zero, and m += beta g. So
    where an entry was sent without rounding, ``unsent`` is exactly 0 and no rounding error remains in the memory.
    """
    kept = memory[index].mul(1.0 - beta).add_(unsent, alpha=beta)
    memory.add_(gradient, alpha=beta)
    memory[index] = kept
