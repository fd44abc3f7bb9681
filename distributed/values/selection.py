"""Which entries of a gradient are sent, the largest of every chunk, and the memory of those that are not.

A flat vector is cut into chunks of ``rate`` entries (the last one may be shorter) and the entry of the largest
magnitude of each is chosen: exactly ceil(N / rate) of N, in O(N) without sorting, and an index is an offset below
``rate``. Source: ScaleCom, arXiv 2104.11125, section 3.2 ("chunk-wise sort") and Algorithm 1.

N: entries of a vector; k = ceil(N / rate): its chunks. Vectors have shape (N,), offsets and positions (k,).
"""

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK_ENTRIES = 1 << 17  # on a CPU temporaries of this size stay in its cache: one pass over memory instead of three


def chunks(length: int, rate: int) -> int:
    """Number of chunks of a vector of ``length`` entries."""
    return -(-length // rate)


def offset_dtype(rate: int) -> torch.dtype:
    """The smallest integer type that holds every offset below ``rate``."""
    return torch.uint8 if rate <= 1 << 8 else torch.uint16 if rate <= 1 << 16 else torch.int32


def largest_of_chunks(memory: Tensor, gradient: Tensor, rate: int) -> Tensor:
    """Offset within its chunk of the entry with the largest |memory + gradient|, as int64 of shape (k,).

    Both are of one dtype, and no gradient is recorded.
    """
    return _of_blocks(memory, gradient, rate, torch.add)


def largest_of_differences(one: Tensor, other: Tensor, rate: int) -> Tensor:
    """The same of |one - other|."""
    return _of_blocks(one, other, rate, torch.sub)


def _of_blocks(one: Tensor, other: Tensor, rate: int, combine: Callable[..., Tensor]) -> Tensor:
    if one.device.type != "cpu":
        return _largest(combine(one, other).abs_(), rate)
    block = max(1, BLOCK_ENTRIES // rate) * rate
    scratch = torch.empty(min(block, one.numel()), dtype=one.dtype)
    found: list[Tensor] = []
    for a, b in zip(one.split(block), other.split(block), strict=True):
        magnitudes = scratch[: a.numel()]
        found.append(_largest(combine(a, b, out=magnitudes).abs_(), rate))
    return torch.cat(found)


def _largest(magnitudes: Tensor, rate: int) -> Tensor:
    whole = magnitudes.numel() // rate * rate
    offsets = _largest_of_rows(magnitudes[:whole].view(-1, rate))
    rest = magnitudes[whole:]
    return torch.cat([offsets, rest.max(0, keepdim=True).indices]) if rest.numel() else offsets


def _largest_of_rows(magnitudes: Tensor) -> Tensor:
    if magnitudes.device.type == "cpu" and magnitudes.dtype in (torch.float32, torch.float64):
        # By SIMD, where torch compares one by one; the choice is the same.
        return torch.from_numpy(magnitudes.numpy().argmax(1))
    return magnitudes.max(1).indices


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
