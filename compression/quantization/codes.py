"""Codes of few bits in bytes, and their products in whole numbers.

    bits        2    3, 4    5 to 8
    per byte    4     2        1          codes of a row, two's complement, the first in the lowest bits; 0 fills the last byte

Products are exact in fp32 arithmetic, whatever the order of its sums, as long as no sum can pass 2^24. Longer rows are cut
into blocks whose sums are added as int32, so that an engine with int32 accumulators makes the same numbers.

R rows   K columns   N vectors
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compression.quantization.weights import levels

EXACT = 2**24  # whole numbers up to here are exact in fp32

Product = Callable[[Tensor], Tensor]
"""Codes (N, K), whole numbers in fp32, to sums of products (N, R), whole numbers in fp32 unless they pass 2^24."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One way to compute products with matrices of codes; all give the same numbers."""

    product: Callable[[Tensor, int, int], Product]
    """``product(codes_RK int8, largest weight, largest input)``: the product with one matrix."""
    keeps: bool
    """Whether the product is kept for as long as the layer is; otherwise it is made for each call of the layer."""


def codes_per_byte(bits: int) -> int:
    """Codes that share a byte."""
    return 4 if bits == 2 else 2 if bits <= 4 else 1


def bytes_per_row(columns: int, bits: int) -> int:
    """Bytes of a row of ``columns`` codes."""
    return -(-columns // codes_per_byte(bits))


def pack(codes_RK: Tensor, bits: int) -> Tensor:
    """Codes, int8, as bytes (R, bytes per row), uint8."""
    count = codes_per_byte(bits)
    if count == 1:
        return codes_RK.contiguous().view(torch.uint8)
    rows, columns = codes_RK.shape
    width = 8 // count
    filled = codes_RK.new_zeros(rows, bytes_per_row(columns, bits) * count)
    filled[:, :columns] = codes_RK
    parts = (filled.view(torch.uint8) & (2**width - 1)).view(rows, -1, count)
    packed = torch.zeros_like(parts[..., 0])
    for place in range(count):
        packed |= parts[..., place] << (width * place)
    return packed


def unpack(packed: Tensor, columns: int, bits: int) -> Tensor:
    """Bytes (R, bytes per row) as codes (R, ``columns``), int8."""
    count = codes_per_byte(bits)
    if count == 1:
        return packed.view(torch.int8)
    width = 8 // count
    codes = torch.empty(*packed.shape, count, dtype=torch.int8, device=packed.device)
    for place in range(count):
        codes[..., place] = (packed << (8 - width * (place + 1))).view(torch.int8) >> (8 - width)
    return codes.flatten(-2)[:, :columns]


def is_packed(packed: Tensor, columns: int, bits: int) -> bool:
    """Whether bytes are what ``pack`` makes: no code beyond the levels, nothing where there is no code."""
    codes = unpack(packed, columns, bits)
    within = not bool(((codes > levels(bits)) | (codes < -levels(bits))).any())
    return within and torch.equal(pack(codes, bits), packed)


def float_product(codes_RK: Tensor, largest_weight: int, largest_input: int) -> Product:
    """Products in fp32, each of whose sums is exact."""
    block = max(1, EXACT // (largest_weight * largest_input))
    blocks = [part.t().to(torch.float32) for part in codes_RK.split(block, dim=1)]

    def product(codes_NK: Tensor) -> Tensor:
        if len(blocks) == 1:
            return codes_NK @ blocks[0]
        inputs = codes_NK.split(block, dim=1)
        sums = [(each @ part).to(torch.int32) for each, part in zip(inputs, blocks, strict=True)]
        return torch.stack(sums).sum(0, dtype=torch.int32).to(torch.float32)

    return product


FLOAT = Engine(float_product, keeps=False)


def integer_product(codes_RK: Tensor, largest_weight: int, largest_input: int) -> Product:
    """Products of int32 numbers: the reference of all engines, slow."""
    weights_KR = codes_RK.t().to(torch.int32)
    return lambda codes_NK: (codes_NK.to(torch.int32) @ weights_KR).to(torch.float32)


INTEGER = Engine(integer_product, keeps=False)
