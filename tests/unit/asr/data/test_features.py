"""Features: exact frame counts, normalisation, keyed dither, and settings that cannot work."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr.data.features import LogMel, normalise


def make(**changes: object) -> LogMel:
    settings = {
        "sample_rate": 16000,
        "num_mels": 20,
        "frame_length_ms": 25.0,
        "frame_shift_ms": 10.0,
        "dither": 0.0,
        "normalise": "utterance",
        "deltas": 0,
        "stack": 1,
    }
    return LogMel(**(settings | changes))


def noise(num_samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(1))


@given(num_samples=st.integers(0, 3000), rate=st.sampled_from([8000, 11025, 16000]))
def test_the_number_of_frames_is_exact(num_samples: int, rate: int) -> None:
    log_mel = make(sample_rate=rate)
    mel_TF = log_mel.mel(noise(num_samples))
    assert mel_TF.shape == (log_mel.frames_of(num_samples), log_mel.dimension)
    assert log_mel.frames(num_samples / rate) == log_mel.frames_of(num_samples)


def test_too_short_audio_has_no_frames() -> None:
    log_mel = make()
    assert log_mel.frames(0.0249) == 0
    assert log_mel.frames(0.025) == 1
    assert log_mel.normalise(log_mel.mel(noise(399))).shape == (0, 20)


@pytest.mark.parametrize(("deltas", "stack"), [(0, 1), (0, 3), (2, 1), (2, 2)])
@pytest.mark.parametrize("num_samples", [0, 399, 400, 560, 1360])
def test_frames_and_dimension_follow_deltas_and_stacking(num_samples: int, deltas: int, stack: int) -> None:
    log_mel = make(deltas=deltas, stack=stack)
    found_SD = log_mel.model_input(noise(num_samples))
    assert found_SD.shape == (log_mel.frames_of(num_samples), log_mel.dimension)
    assert log_mel.frames_of(num_samples) == -(-len(log_mel.mel(noise(num_samples))) // stack)
    assert log_mel.frame_seconds == pytest.approx(0.01 * stack)


def test_ibm_features_have_240_dimensions() -> None:
    assert make(num_mels=40, deltas=2, stack=2).dimension == 240


def test_without_deltas_and_stacking_features_stay_bitwise() -> None:
    normal_TF = make().normalise(make().mel(noise(4000)))
    assert torch.equal(make().in_context(normal_TF), normal_TF)


def test_normalisation_gives_zero_mean_and_unit_variance() -> None:
    normal_TF = make().normalise(make().mel(noise(16000)))
    torch.testing.assert_close(normal_TF.mean(dim=0), torch.zeros(20), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal_TF.var(dim=0, correction=0), torch.ones(20), atol=1e-4, rtol=0)


def test_normalised_features_do_not_depend_on_loudness() -> None:
    log_mel = make()
    loud_TF, quiet_TF = (log_mel.normalise(log_mel.mel(gain * noise(16000))) for gain in (1.0, 0.03))
    torch.testing.assert_close(loud_TF, quiet_TF, atol=1e-3, rtol=0)


def test_constant_bins_become_zero() -> None:
    assert make().normalise(make().mel(torch.zeros(16000))).abs().max() < 1e-2
    assert torch.equal(normalise(torch.full((1, 3), -15.9)), torch.zeros(1, 3))


def test_normalisation_can_be_switched_off() -> None:
    log_mel = make(normalise="none")
    mel_TF = log_mel.mel(noise(4000))
    assert torch.equal(log_mel.normalise(mel_TF), mel_TF)


def test_dither_is_repeatable_and_leaves_the_global_generator_alone() -> None:
    log_mel, silence = make(dither=1.0), torch.zeros(4000)
    before = torch.get_rng_state()
    one, same, other = (log_mel.mel(silence, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(log_mel.mel(silence), log_mel.mel(silence))
    assert torch.equal(before, torch.get_rng_state())


def test_dither_of_one_is_noise_of_one_16_bit_step() -> None:
    """White noise of amplitude 1 must look like the same noise put into the waveform at 1 / 32768."""
    generator = torch.Generator().manual_seed(5)
    samples = torch.randn(8000, generator=generator)
    dithered_TF = make(dither=1.0).mel(torch.zeros(8000), torch.Generator().manual_seed(5))
    torch.testing.assert_close(dithered_TF, make().mel(samples / 32768), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_mels": 3}, "features.num_mels must be at least 4, got 3"),
        ({"num_mels": 200, "sample_rate": 8000}, "features.num_mels=200 is too large"),
        ({"frame_shift_ms": 0.01}, "features.frame_shift_ms=0.01"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)
