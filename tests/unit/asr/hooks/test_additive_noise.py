"""Additive noise: the ratio is exact, silence is harmless, what is drawn is repeatable, bad recordings are refused."""

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
from asr.hooks.additive_noise import AdditiveNoise, mix
from asr.hooks.recorded_effect import mean_power

Write = Callable[..., Path]
Waveforms = Callable[..., RawBatch]
IDS = [f"u{index}" for index in range(40)]


def noise(seconds: float, seed: int = 0, rate: int = 16000) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))


def make_hook(manifest: Path, **changes: Any) -> AdditiveNoise:
    settings: dict[str, Any] = {
        "manifest": manifest,
        "sample_rate": 16000,
        "probability": 1.0,
        "snr_db": (5.0, 15.0),
        "cache_gb": 0.1,
    }
    return AdditiveNoise(**(settings | changes))


def realised_snr_db(signal: torch.Tensor, mixed: torch.Tensor) -> float:
    added = mixed.double() - signal.double()
    return float(10 * torch.log10(signal.double().square().mean() / added.square().mean()))


@given(snr_db=st.floats(-20, 60), loudness=st.floats(1e-3, 1), seed=st.integers(0, 100))
def test_the_realised_ratio_is_exact(snr_db: float, loudness: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    signal = loudness * torch.randn(5000, generator=generator)
    mixed = mix(signal, torch.randn(5000, generator=generator), snr_db)
    assert realised_snr_db(signal, mixed) == pytest.approx(snr_db, abs=0.02)


def test_the_equation_in_numbers() -> None:
    """Powers 4 and 1 at 20 dB: the noise is scaled by sqrt(4 / 100)."""
    assert torch.allclose(mix(torch.tensor([2.0, -2.0]), torch.tensor([1.0, 1.0]), 20.0), torch.tensor([2.2, -1.8]))


def test_silence_of_either_adds_nothing() -> None:
    signal, silence = torch.randn(100), torch.zeros(100)
    assert torch.equal(mix(signal, silence, 10), signal)
    assert torch.equal(mix(silence, signal, 10), silence)
    assert torch.equal(mix(silence, silence, 10), silence)
    assert mean_power(torch.zeros(0)) == 0


def test_ratios_fill_the_range_and_some_utterances_stay_clean(write_recordings: Write, waveforms: Waveforms) -> None:
    hook = make_hook(write_recordings(noise(1.0)), probability=0.5)
    found: list[float] = []
    clean = 0
    for epoch in range(10):
        raw, before = waveforms(IDS, epoch=epoch), waveforms(IDS).signals
        hook.on_batch(raw)
        for signal, mixed in zip(before, raw.signals, strict=True):
            if torch.equal(signal, mixed):
                clean += 1
            else:
                found.append(realised_snr_db(signal, mixed))
    assert abs(clean - 200) < 3.3 * 10  # 400 draws: a standard deviation of 10
    assert 5 <= min(found) < 6
    assert 14 < max(found) <= 15
    assert np.mean(found) == pytest.approx(10, abs=3.3 * 10 / 12**0.5 / len(found) ** 0.5)


def test_what_is_mixed_depends_on_seed_epoch_utterance_and_name_alone(
    write_recordings: Write, assert_keyed: Callable[..., None]
) -> None:
    manifest = write_recordings(noise(1.0, 1), (noise(0.3, 2, 8000), 8000), (noise(31.0, 3, 22050), 22050))
    others = make_hook(manifest, cache_gb=0.0), make_hook(manifest)
    assert_keyed(IDS, make_hook(manifest), *others, unchanged=any)


def test_the_signal_that_was_given_is_not_written_to(write_recordings: Write, waveforms: Waveforms) -> None:
    raw = waveforms(IDS)
    given = list(raw.signals)
    make_hook(write_recordings(noise(1.0))).on_batch(raw)
    assert all(map(torch.equal, given, waveforms(IDS).signals))


def test_bad_recordings_are_refused_at_start_but_unneeded_for_inference(tmp_path: Path) -> None:
    hook = make_hook(tmp_path / "none.jsonl")
    with pytest.raises(
        RecordingsError, match=r"hooks\.additive_noise\.manifest: .*none\.jsonl: cannot be read"
    ) as caught:
        hook.on_fit_start(None, resumed=False)
    assert "\n" not in str(caught.value)


def test_a_range_that_is_reversed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"hooks\.additive_noise\.snr_db must be \[lowest, highest\]"):
        make_hook(tmp_path, snr_db=(20.0, 10.0))
