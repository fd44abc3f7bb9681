"""Vectors as integers of 8 or 4 bits with one scale per chunk.

    s  =  max |d| / l  over a chunk        l = 127 or 7: the largest integer
    c  =  round(d / s)                     an integer between -l and l
    d  ~  s c                              |d - s c|  <=  s / 2

Two integers of 4 bits share a byte, as c + 8. The integer is the nearest one, so that an entry's error is bounded, and the same
whoever decodes it. It is no unbiased estimate, as stochastic rounding would give: what rounding takes has to be kept.

N: entries of a vector, shape (N,); chunks of ``CHUNK`` entries, the last one filled up with zeros; codes int8 (bytes,);
scales float32 (chunks,).
"""

from typing import Literal

import torch
from torch import Tensor

from distributed.values.selection import chunks

IntegerBits = Literal[4, 8]
CHUNK = 256  # entries that share a scale, which then costs 1/64 byte for each
_SMALLEST_SCALE = 1e-30  # below it a chunk is zero: the inverse of a denormal number is infinite


def number_of_scales(length: int) -> int:
    """Number of scales of ``length`` entries."""
    return chunks(length, CHUNK)


def code_bytes(length: int, bits: IntegerBits) -> int:
    """Number of bytes of the codes of ``length`` entries, those that fill up the last chunk included."""
    return number_of_scales(length) * CHUNK * bits // 8


def quantise(vector: Tensor, bits: IntegerBits) -> tuple[Tensor, Tensor, Tensor]:
    """Codes and scales of a vector (N,), which is overwritten, and what they stand for, (N,).

    The scale of a chunk with an infinity or a NaN is not finite.
    """
    rows, largest = _rows(vector), (1 << (bits - 1)) - 1
    scales = torch.maximum(rows.amax(1), rows.amin(1).neg_()).div_(largest).to(torch.float32)
    scales[scales < _SMALLEST_SCALE] = 0.0
    inverse = torch.where(scales > 0, scales.reciprocal(), 0.0).to(rows.dtype)
    integers = rows.mul_(inverse[:, None]).round_()
    codes = (integers if bits == 8 else integers + 8).to(torch.int8).view(-1)
    values = integers.mul_(scales[:, None].to(rows.dtype)).view(-1)[: len(vector)]
    return codes if bits == 8 else _paired(codes), scales, values


def dequantised(codes: Tensor, scales: Tensor, bits: IntegerBits, like: Tensor) -> Tensor:
    """What codes and scales stand for, of the length and dtype of ``like``: bitwise what ``quantise`` has returned."""
    rows = (codes if bits == 8 else _parted(codes)).to(like.dtype).view(-1, CHUNK)
    integers = rows if bits == 8 else rows.sub_(8)
    return integers.mul_(scales[:, None].to(like.dtype)).view(-1)[: len(like)]


def _rows(vector: Tensor) -> Tensor:
    """The chunks of a vector (N,) as rows, the last one filled up with zeros."""
    missing = -len(vector) % CHUNK
    return (torch.cat([vector, vector.new_zeros(missing)]) if missing else vector).view(-1, CHUNK)


def _paired(codes: Tensor) -> Tensor:
    """Two codes from 0 to 15 per byte, the first one in the lower half. As 16 bits at once, which is several times faster."""
    pairs = codes.view(torch.int16)
    return (pairs & 15).bitwise_or_((pairs >> 4) & 240).to(torch.int8)


def _parted(codes: Tensor) -> Tensor:
    """The codes of ``_paired``."""
    pairs = codes.to(torch.int16)
    return (pairs & 15).bitwise_or_((pairs & 240) << 4).view(torch.int8)
