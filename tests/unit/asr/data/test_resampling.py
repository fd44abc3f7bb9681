"""Resampling: torchaudio's own result whatever the length, and a filter that is made once."""

import math

import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.data.resampling import LARGEST_FILTER, Resampler, StreamResampler, filter_size, rate_defect, resampler
from distributed.errors import UsageError

RATES = [(22050, 16000), (22050, 8000), (8000, 16000), (8000, 8000), (44100, 16000), (48000, 16000), (11025, 16000)]


@settings(max_examples=30)
@given(st.integers(1, 30_000), st.sampled_from(RATES))
def test_resampling_agrees_with_torchaudio_at_every_length(length: int, rates: tuple[int, int]) -> None:
    samples = torch.rand(length, generator=torch.Generator().manual_seed(length)) - 0.5
    expected = torchaudio.functional.resample(samples, *rates)
    found = Resampler(*rates)(samples)
    assert len(found) == Resampler(*rates).length(length) == math.ceil(length * rates[1] / rates[0])
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)  # a 16-bit step is 3e-5


def test_what_is_kept_takes_the_memory_of_its_samples() -> None:
    resampled = resampler(8000, 16000)(torch.randn(2000))
    assert resampled.untyped_storage().nbytes() == resampled.nbytes == 16000


def test_equal_rates_leave_the_very_samples() -> None:
    samples = torch.rand(1000)
    assert Resampler(16000, 16000)(samples) is samples


def test_a_tone_below_both_limits_keeps_its_pitch_and_one_above_is_gone() -> None:
    """44.1 to 16 kHz: 1 kHz stays the sine it was, 10 kHz, above the new Nyquist frequency, does not fold down."""
    time, new_time = torch.arange(44100) / 44100, torch.arange(16000) / 16000
    inside = slice(1000, -1000)  # away from where the signal begins and ends
    kept = resampler(44100, 16000)(torch.sin(2 * math.pi * 1000 * time))
    torch.testing.assert_close(kept[inside], torch.sin(2 * math.pi * 1000 * new_time)[inside], atol=2e-3, rtol=0)
    assert resampler(44100, 16000)(torch.sin(2 * math.pi * 10_000 * time))[inside].abs().max() < 1e-2


def test_the_filter_is_made_once() -> None:
    assert resampler(8000, 16000) is resampler(8000, 16000)


@pytest.mark.parametrize("rates", RATES)
def test_the_size_of_the_filter_is_known_before_it_is_made(rates: tuple[int, int]) -> None:
    if rates[0] != rates[1]:
        made = torchaudio.transforms.Resample(*rates)
        assert made.kernel.numel() == filter_size(*rates)
    assert rate_defect(*rates) is None


@pytest.mark.parametrize("rates", [(4001, 16000), (2_000_000_011, 8000), (15_991, 16000)])
def test_a_filter_that_would_fill_the_memory_is_refused(rates: tuple[int, int]) -> None:
    assert filter_size(*rates) > LARGEST_FILTER
    assert f"is sampled at {rates[0]} Hz" in (rate_defect(*rates) or "")
    assert Resampler(*rates).length(0) == 0, "lengths need no filter"
    with pytest.raises(UsageError, match=rf"^audio is sampled at {rates[0]} Hz, an odd rate"):
        Resampler(*rates)(torch.zeros(10))


def test_ordinary_rates_have_filters() -> None:
    usual = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 37800, 44100, 48000, 88200, 96000, 176400, 192000)
    assert all(rate_defect(source, target) is None for source in usual for target in usual)


@settings(max_examples=15)
@given(st.integers(1, 8000), st.sampled_from(RATES), st.lists(st.integers(40, 3000), min_size=1, max_size=4))
def test_a_stream_is_resampled_as_the_whole(length: int, rates: tuple[int, int], sizes: list[int]) -> None:
    samples = torch.rand(length, generator=torch.Generator().manual_seed(length)) - 0.5
    stream, pieces, start = StreamResampler(*rates), [], 0
    while start < length:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(stream.push(samples[start : start + size]))
        start += size
    found = torch.cat([*pieces, stream.end()])
    torch.testing.assert_close(found, Resampler(*rates)(samples), atol=2e-5, rtol=0)
    at_once = StreamResampler(*rates)
    assert torch.equal(torch.cat([at_once.push(samples), at_once.end()]), found)
    assert len(stream._held) < stream.block + 2 * stream.margin


def test_a_stream_of_an_odd_rate_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^audio is sampled at 4001 Hz, an odd rate"):
        StreamResampler(4001, 16000)
