"""Vectors as integers of 8 or 4 bits with one scale per chunk.

    s  =  max |d| / l  over a chunk        l = 127 or 7: the largest integer
    c  =  round(d / s)                     an integer between -l and l
    d  ~  s c                              |d - s c|  <=  s / 2

Two integers of 4 bits share a byte. The integer is the nearest one, so that an entry's error is bounded, and the same
whoever decodes it. It is no unbiased estimate, as stochastic rounding would give: what rounding takes has to be kept.

N: entries of a vector, shape (N,); chunks of ``CHUNK`` entries, the last one may be shorter; codes uint8 (bytes,);
scales float32 (chunks,).
"""

from typing import Literal

import torch
from torch import Tensor

from distributed.values.selection import chunks

IntegerBits = Literal[4, 8]
CHUNK = 256  # entries that share a scale, which then costs 1/64 byte for each
_SMALLEST_SCALE = 1e-30  # below it a chunk is zero: the inverse of a denormal number is infinite


def code_bytes(length: int, bits: IntegerBits) -> int:
    """Number of bytes of the codes of ``length`` entries."""
    return -(-length * bits // 8)


def number_of_scales(length: int) -> int:
    """Number of scales of ``length`` entries."""
    return chunks(length, CHUNK)


def quantise(vector: Tensor, bits: IntegerBits) -> tuple[Tensor, Tensor]:
    """Codes and scales of a vector (N,); the scale of a chunk with an infinity or a NaN is not finite."""
    rows, largest = _rows(vector), (1 << (bits - 1)) - 1
    scales = rows.abs().amax(1).div_(largest).to(torch.float32)
    scales[scales < _SMALLEST_SCALE] = 0.0
    inverse = torch.where(scales > 0, scales.reciprocal(), 0.0).to(rows.dtype)
    integers = rows.mul(inverse[:, None]).round_().clamp_(-largest, largest).to(torch.int8).view(-1)[: len(vector)]
    return integers.view(torch.uint8) if bits == 8 else _paired(integers), scales


def add_dequantised(codes: Tensor, scales: Tensor, bits: IntegerBits, vector: Tensor) -> None:
    """Add what ``codes`` and ``scales`` stand for to a vector (N,), in place; bitwise the same for all that do it."""
    integers = codes.view(torch.int8) if bits == 8 else _parted(codes)[: len(vector)]
    values = _rows(integers.to(vector.dtype)).mul_(scales[:, None].to(vector.dtype))
    vector.add_(values.view(-1)[: len(vector)])


def _rows(vector: Tensor) -> Tensor:
    """The chunks of a vector (N,) as rows, the last one filled up with zeros."""
    missing = -len(vector) % CHUNK
    return (torch.cat([vector, vector.new_zeros(missing)]) if missing else vector).view(-1, CHUNK)


def _paired(integers: Tensor) -> Tensor:
    """Two integers per byte, as int8 from -7 to 7, the first one in the lower half; 0 fills up an odd number."""
    halves = integers.view(torch.uint8).bitwise_and(15)
    pairs = torch.cat([halves, halves.new_zeros(len(halves) % 2)]).view(-1, 2)
    return pairs[:, 0] | (pairs[:, 1] << 4)


def _parted(codes: Tensor) -> Tensor:
    """The integers of ``_paired``, as int8."""
    signed = codes.view(torch.int8)
    return torch.stack([(signed << 4) >> 4, signed >> 4], 1).view(-1)
