"""Integers of 8 and 4 bits: errors within half a scale, all lengths, the same for all that decode them."""

import pytest
import torch
from torch import Tensor

from distributed.values.integers import CHUNK, IntegerBits, code_bytes, dequantised, number_of_scales, quantise

LENGTHS = (0, 1, 2, 3, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 7)


def vector(length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Entries whose size differs by orders of magnitude from chunk to chunk."""
    generator = torch.Generator().manual_seed(length)
    scales = torch.logspace(-6, 3, max(1, -(-length // 100))).repeat_interleave(100)[:length]
    return (torch.randn(length, generator=generator) * scales).to(dtype)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("length", LENGTHS)
def test_an_entry_s_error_is_at_most_half_its_chunk_s_scale(bits: IntegerBits, length: int):
    given = vector(length)
    codes, scales, values = quantise(given.clone(), bits)
    assert (codes.dtype, len(codes), len(scales)) == (torch.int8, code_bytes(length, bits), number_of_scales(length))
    assert torch.equal(values, dequantised(codes, scales, bits, given))
    error = (values.double() - given.double()).abs()
    bound = scales.double().repeat_interleave(CHUNK)[:length] / 2
    assert (error <= bound * (1 + 1e-5)).all()
    for chunk, scale in zip(given.split(CHUNK) if length else (), scales, strict=True):
        assert scale.item() == pytest.approx(chunk.abs().max().item() / (127 if bits == 8 else 7), rel=1e-6)


@pytest.mark.parametrize("bits", [8, 4])
def test_multiples_of_a_scale_are_exact_zeros_and_ends_included(bits: IntegerBits):
    largest = 127 if bits == 8 else 7
    given = 0.25 * torch.arange(-largest, largest + 1, dtype=torch.float64)
    assert torch.equal(quantise(given.clone(), bits)[2], given)
    nothing = torch.zeros(CHUNK + 3)
    assert torch.equal(quantise(nothing.clone(), bits)[2], nothing)


def test_chunks_too_small_for_a_scale_are_zero_and_nothing_is_nan():
    given = torch.full((10,), 1e-42)
    _, scales, values = quantise(given.clone(), 8)
    assert not scales.any()
    assert not values.any()


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_what_is_not_finite_shows_in_the_scale_of_its_chunk_alone(bad: float):
    given = vector(3 * CHUNK)
    given[CHUNK + 5] = bad
    assert quantise(given.clone(), 8)[1].isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_does_not_drift(bits: IntegerBits):
    """Nearest integers of many entries: errors of both signs, their mean far below a scale."""
    given = torch.randn(200 * CHUNK, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, scales, values = quantise(given.clone(), bits)
    error = (values - given).mean().item()
    assert abs(error) < 0.01 * scales.mean().item()
