"""Reverberation: laws of convolution, alignment, length and power; repeatability."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr.data.batch import RawBatch
from asr.data.recordings import RecordingsError
from asr.hooks.recorded_effect import mean_power
from asr.hooks.reverberation import Reverberation, convolve, reverberate

Write = Callable[..., Path]
Waveforms = Callable[..., RawBatch]
IDS = [f"u{index}" for index in range(40)]


def random(samples: int, seed: int) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def room(seed: int, taps: int = 2000, direct: int = 100) -> np.ndarray:
    """Noise that decays from the direct path on."""
    response = np.random.default_rng(seed).standard_normal(taps) * np.exp(-np.arange(taps) / 300) * 0.2
    response = np.roll(response, direct)
    response[direct] = 1.0
    return response


def make_hook(manifest: Path, **changes: Any) -> Reverberation:
    return Reverberation(
        **({"manifest": manifest, "sample_rate": 16000, "probability": 1.0, "cache_gb": 0.1} | changes)
    )


@given(samples=st.integers(1, 3000), taps=st.integers(1, 3000), place=st.integers(0, 2999), gain=st.floats(0.01, 10))
def test_an_impulse_at_any_place_is_the_identity(samples: int, taps: int, place: int, gain: float) -> None:
    signal, response = random(samples, 0), torch.zeros(taps, dtype=torch.float64)
    response[place % taps] = gain
    torch.testing.assert_close(reverberate(signal, response), signal)


def test_reverberation_is_convolution_from_the_direct_path_on() -> None:
    signal, response = random(500, 0), torch.from_numpy(room(1, taps=300, direct=40))
    expected = np.convolve(signal.numpy(), response.numpy())[40:540]
    torch.testing.assert_close(convolve(signal, response), torch.from_numpy(expected))


def test_convolution_is_linear() -> None:
    one, other, response = random(800, 0), random(800, 1), torch.from_numpy(room(2))
    both = convolve(2 * one - 3 * other, response)
    torch.testing.assert_close(both, 2 * convolve(one, response) - 3 * convolve(other, response))


def test_length_and_power_are_kept_whatever_the_response_loudness() -> None:
    signal, response = random(800, 0), torch.from_numpy(room(2))
    wet = reverberate(signal, response)
    assert wet.shape == signal.shape
    assert mean_power(wet) == pytest.approx(mean_power(signal))
    torch.testing.assert_close(reverberate(signal, 7 * response), wet)
    torch.testing.assert_close(reverberate(0.1 * signal, response), 0.1 * wet)


def test_silence_of_either_changes_nothing() -> None:
    signal, silence = random(100, 0), torch.zeros(100, dtype=torch.float64)
    assert torch.equal(reverberate(signal, silence[:10]), signal)
    assert torch.equal(reverberate(silence, signal), silence)


def test_the_room_depends_on_seed_epoch_utterance_and_name_alone(
    write_recordings: Write, assert_keyed: Callable[..., None]
) -> None:
    manifest = write_recordings(room(1), (room(2, 6000), 48000), room(3))
    assert_keyed(IDS, make_hook(manifest), make_hook(manifest, cache_gb=0.0), unchanged=all)


def test_a_part_of_the_utterances_stays_dry(write_recordings: Write, waveforms: Waveforms) -> None:
    hook = make_hook(write_recordings(room(1)), probability=0.3)
    dry = 0
    for epoch in range(10):
        raw = waveforms(IDS, epoch=epoch)
        hook.on_batch(raw)
        dry += sum(map(torch.equal, raw.signals, waveforms(IDS).signals))
    assert abs(dry - 280) < 3.3 * (400 * 0.21) ** 0.5


def test_bad_responses_are_refused_when_training_starts(tmp_path: Path) -> None:
    with pytest.raises(RecordingsError, match=r"hooks\.reverberation\.manifest: .*none\.jsonl: cannot be read"):
        make_hook(tmp_path / "none.jsonl").on_fit_start(None, resumed=False)
