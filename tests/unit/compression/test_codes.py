"""Codes in bytes, and products of codes: exact, whatever the engine."""

import numpy as np
import pytest
import torch

from compression.quantization.codes import FLOAT, INTEGER, bytes_per_row, is_packed, pack, unpack
from compression.quantization.onnx_engine import ONNX, fastest_engine
from compression.quantization.weights import levels
from distributed.errors import UsageError


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("columns", [1, 2, 3, 8, 13])
def test_codes_survive_their_bytes(bits: int, columns: int) -> None:
    codes = torch.randint(-levels(bits), levels(bits) + 1, (5, columns), dtype=torch.int8)
    packed = pack(codes, bits)
    assert packed.shape == (5, bytes_per_row(columns, bits))
    assert packed.dtype == torch.uint8
    assert torch.equal(unpack(packed, columns, bits), codes)
    assert is_packed(packed, columns, bits)


def test_two_codes_lie_in_a_byte_the_first_in_the_low_bits() -> None:
    packed = pack(torch.tensor([[1, -1, 7]], dtype=torch.int8), 4)
    assert packed.tolist() == [[0xF1, 0x07]]
    assert not is_packed(torch.tensor([[0xF1, 0x17]], dtype=torch.uint8), 3, 4), "a code where there is none"
    assert not is_packed(torch.tensor([[0x08, 0x07]], dtype=torch.uint8), 3, 4), "-8 is no level"


@pytest.mark.parametrize(("largest_weight", "largest_input"), [(7, 14), (127, 254)])
def test_products_are_exact_at_their_largest(largest_weight: int, largest_input: int) -> None:
    """Rows of the largest codes of one sign, whose sums pass 2^24 at 8 bits, and random ones."""
    codes = torch.randint(-largest_weight, largest_weight + 1, (6, 2304), dtype=torch.int8)
    x = torch.randint(-largest_input, largest_input + 1, (9, 2304)).float()
    codes[0], x[0], x[0, 0] = largest_weight, largest_input, 1
    exact = x.numpy().astype(np.int64) @ codes.numpy().astype(np.int64).T
    for engine in (FLOAT, INTEGER):
        product = engine.product(codes, largest_weight, largest_input)(x)
        assert torch.equal(product, torch.from_numpy(exact).float()), engine


@pytest.mark.parametrize("bits", [4, 7])
def test_onnx_runtime_does_not_saturate_where_it_is_used(bits: int) -> None:
    """The largest codes side by side, whose pairs AVX2 adds in 16 bits."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    largest, inputs = levels(bits), 2 * levels(bits)
    codes, x = torch.full((16, 64), largest, dtype=torch.int8), torch.full((3, 64), float(inputs))
    codes[::2], x[1] = -largest, -x[1]
    assert torch.equal(ONNX.product(codes, largest, inputs)(x), INTEGER.product(codes, largest, inputs)(x))
    with pytest.raises(UsageError, match=r"^codes up to 127 and 127 saturate in MatMulInteger without VNNI"):
        ONNX.product(codes, 127, 127)
    assert fastest_engine(127, 127, torch.device("cpu")) is FLOAT
