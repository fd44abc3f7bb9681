"""The largest of every chunk: against padding and sorting, ties, types of offsets; the memory against its equation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distributed.values.selection import BLOCK_ENTRIES, largest_of_chunks, offset_dtype, positions_of, update_memory


def noise(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(seed))


@given(length=st.integers(1, 300), rate=st.integers(1, 320), seed=st.integers(0, 99))
def test_each_chunk_gives_its_largest_entry_the_last_as_if_zero_padded(length: int, rate: int, seed: int):
    memory, gradient = noise(length, seed), noise(length, seed + 1)
    padded = torch.zeros(-(-length // rate) * rate)
    padded[:length] = (memory + gradient).abs()
    offsets = largest_of_chunks(memory, gradient, rate)
    assert torch.equal(offsets, padded.view(-1, rate).argmax(1))
    positions = positions_of(offsets, rate)
    assert positions.max() < length
    assert torch.equal(positions // rate, torch.arange(-(-length // rate)))


@pytest.mark.parametrize("rate", [400, 7, BLOCK_ENTRIES, BLOCK_ENTRIES + 3])
def test_blocks_change_nothing(rate: int):
    """Vectors longer than the blocks in which they are searched, with ends in the middle of chunks and blocks."""
    values = noise(3 * BLOCK_ENTRIES + 1234)
    chunks = torch.nn.functional.pad(values.abs(), (0, -len(values) % rate)).view(-1, rate)
    assert torch.equal(largest_of_chunks(values, torch.zeros_like(values), rate), chunks.argmax(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_of_equal_entries_the_first_is_chosen_and_nan_before_all(dtype: torch.dtype):
    values = torch.tensor([1, -3, 3, 3, 0, 0, 0, 0, 5, torch.nan, -torch.inf, 1, 2], dtype=dtype)
    assert largest_of_chunks(values, torch.zeros_like(values), 4).tolist() == [1, 0, 1, 0]


def test_no_entries_give_no_offsets():
    assert largest_of_chunks(torch.zeros(0), torch.zeros(0), 4).shape == (0,)
    assert positions_of(torch.zeros(0, dtype=torch.int64), 4).shape == (0,)


@pytest.mark.parametrize(
    ("rate", "dtype"),
    [
        (2, torch.uint8),
        (256, torch.uint8),
        (257, torch.uint16),
        (65536, torch.uint16),
        (65537, torch.int32),
    ],
)
def test_offsets_fit_into_their_type_up_to_its_limit(rate: int, dtype: torch.dtype):
    assert offset_dtype(rate) == dtype
    largest = torch.tensor([rate - 1])
    assert torch.equal(largest.to(dtype).long(), largest)


@pytest.mark.parametrize("beta", [1.0, 0.3])
@pytest.mark.parametrize("everything", [False, True])
def test_the_memory_follows_its_equation(beta: float, everything: bool):
    memory, gradient = noise(20, 1).double(), noise(20, 2).double()
    index = slice(None) if everything else torch.tensor([3, 11, 19])
    p, sent = memory + gradient, torch.zeros(20, dtype=torch.float64)
    sent[index] = p[index].bfloat16().double()
    expected = (1 - beta) * memory + beta * (p - sent)
    update_memory(memory, gradient, index, (p - sent)[index], beta)
    torch.testing.assert_close(memory, expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_if_everything_was_sent_uncompressed_no_memory_remains(beta: float):
    """Not even a rounding error: m + beta g - beta g would leave one where the processor fuses the two operations."""
    memory = torch.zeros(100)
    for seed in range(3):
        update_memory(memory, noise(100, seed), slice(None), torch.zeros(100), beta)
        assert not memory.any()
