"""Speed perturbation: what happens to pitch, length and bits; which speeds are drawn; room in the batch plan."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from asr.data.batch import RawBatch
from asr.hooks.speed_perturbation import SpeedPerturbation, change_speed
from asr.parts import build

CONF = Path(__file__).parents[4] / "conf" / "hooks" / "speed_perturbation.yaml"
RATE = 16000


def hook() -> SpeedPerturbation:
    built = build(OmegaConf.load(CONF))
    assert isinstance(built, SpeedPerturbation)
    return built


def raw_batch(ids: list[str], epoch: int = 0, seed: int = 1, hook: str = "speed") -> RawBatch:
    signals = [torch.ones(1000) for _ in ids]
    return RawBatch(seed, epoch, ids, signals, [[1]] * len(ids), [[1]] * len(ids), hook=hook)


@settings(max_examples=30)
@given(st.integers(1, 30_000), st.sampled_from([0.5, 0.9, 0.95, 1.07, 1.1, 2.0]))
def test_the_length_is_divided_by_the_factor_as_torchaudio_does_it(length: int, factor: float) -> None:
    waveform = torch.rand(length, generator=torch.Generator().manual_seed(length)) - 0.5
    changed = change_speed(waveform, factor)
    assert len(changed) == math.ceil(length * 100 / round(100 * factor))
    reference, _ = torchaudio.functional.speed(waveform, 100, factor)
    torch.testing.assert_close(changed, reference, atol=2e-5, rtol=0)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_pitch_and_tempo_change_together(factor: float) -> None:
    """x(t) to x(factor t): a sine of 500 Hz becomes one of factor x 500 Hz, as with sox speed."""
    changed = change_speed(torch.sin(2 * math.pi * 500 * torch.arange(RATE) / RATE), factor)
    expected = torch.sin(2 * math.pi * factor * 500 * torch.arange(len(changed)) / RATE)
    torch.testing.assert_close(changed[500:-500], expected[500:-500], atol=2e-3, rtol=0)


def test_factor_one_is_the_identity() -> None:
    waveform = torch.rand(1234)
    assert change_speed(waveform, 1.0) is waveform


def test_all_speeds_are_equally_likely() -> None:
    lengths: Counter[int] = Counter()
    for epoch in range(30):
        raw = raw_batch([f"u{index}" for index in range(100)], epoch)
        hook().on_batch(raw)
        lengths.update(map(len, raw.signals))
    assert set(lengths) == {1112, 1000, 910}
    assert sum((count - 1000) ** 2 / 1000 for count in lengths.values()) < 13.8  # 0.1 % point of 2 degrees of freedom


def test_the_speed_depends_on_seed_epoch_utterance_and_name_alone() -> None:
    def lengths(ids: list[str], **key: Any) -> list[int]:
        raw = raw_batch(ids, **key)
        hook().on_batch(raw)
        return [len(signal) for signal in raw.signals]

    ids = [f"u{index}" for index in range(40)]
    assert lengths(ids) == lengths(ids[::-1])[::-1] == [lengths([each])[0] for each in ids]
    for key in ({"epoch": 1}, {"seed": 2}, {"hook": "other"}):
        assert lengths(ids, **key) != lengths(ids)


def test_targets_and_cached_waveforms_are_left_alone() -> None:
    raw = raw_batch([f"u{index}" for index in range(20)])
    cached = list(raw.signals)
    hook().on_batch(raw)
    assert all(torch.equal(signal, torch.ones(1000)) for signal in cached)
    assert raw.targets == [[1]] * 20


def test_the_hook_states_the_lengthening_it_needs() -> None:
    assert hook().lengthens == pytest.approx(1 / 0.9 - 1)
    assert SpeedPerturbation(factors=[1.0, 1.2]).lengthens == 0


@pytest.mark.parametrize("factors", [[], [0.9, 1.005]])
def test_factors_that_cannot_be_had_are_refused(factors: list[float]) -> None:
    with pytest.raises(ValueError, match=r"hooks\.speed_perturbation\.factors (is empty|must be multiples of 0\.01)"):
        SpeedPerturbation(factors=factors)
