"""Tempo perturbation and replicas: the pitch stays, the time is stretched evenly; which version is drawn."""

import math
import pickle
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from asr.data.batch import RawBatch
from asr.hooks.replicas import Replicas
from asr.hooks.speed_perturbation import SpeedPerturbation, change_speed
from asr.hooks.tempo_perturbation import TempoPerturbation, change_tempo
from asr.parts import build
from scripts.composition.compose import CONF

RATE, WINDOW = 16000, 512
IDS = [f"u{index}" for index in range(100)]


def make(name: str, **changes: Any) -> Any:
    node = OmegaConf.load(CONF / "hooks" / f"{name}.yaml")
    return build(OmegaConf.merge(node, {"sample_rate": RATE, **changes}))


@settings(max_examples=30)
@given(st.integers(1, 30_000), st.sampled_from([0.5, 0.9, 1.07, 1.1, 2.0]))
def test_the_length_is_divided_by_the_factor(length: int, factor: float) -> None:
    waveform = torch.rand(length, generator=torch.Generator().manual_seed(length)) - 0.5
    changed = change_tempo(waveform, factor, WINDOW)
    assert changed.shape == (math.ceil(length / factor),)
    assert changed.dtype == torch.float32
    assert changed.isfinite().all()


@pytest.mark.parametrize("factor", [0.9, 1.1])
@pytest.mark.parametrize("frequency", [100.0, 1234.0, 7000.0])
def test_the_pitch_stays_and_about_the_loudness(factor: float, frequency: float) -> None:
    """The strongest frequency of a long sine, to twice the resolution, and its power to 1.6 dB: phases of bins drift apart."""
    time = torch.arange(30 * RATE) / RATE
    changed = change_tempo(torch.sin(2 * math.pi * frequency * time.double()).float(), factor, WINDOW)[RATE:-RATE]
    spectrum = torch.fft.rfft(changed.double() * torch.hann_window(len(changed), dtype=torch.float64)).abs()
    found = float(spectrum.argmax()) * RATE / len(changed)
    assert found == pytest.approx(frequency, abs=2 * RATE / len(changed))
    assert 0.35 < float(changed.square().mean()) < 0.51


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_time_is_stretched_evenly(factor: float) -> None:
    """Bursts of noise at 0.5, 1.0 and 2.0 s lie at these times over the factor, to a frame of features."""
    waveform = torch.zeros(3 * RATE)
    for second in (0.5, 1.0, 2.0):
        start = round(second * RATE)
        waveform[start : start + 1600] = torch.randn(1600, generator=torch.Generator().manual_seed(start))
    changed = change_tempo(waveform, factor, WINDOW)
    for second in (0.5, 1.0, 2.0):
        middle = round((second + 0.05) / factor * RATE)
        around = changed[middle - 3000 : middle + 3000].square().double()
        centre = float((around * torch.arange(6000)).sum() / around.sum()) - 3000
        assert abs(centre) < 0.01 * RATE


def test_factor_one_is_the_identity() -> None:
    waveform = torch.rand(1234)
    assert change_tempo(waveform, 1.0, WINDOW) is waveform


def test_the_window_has_the_milliseconds_that_are_asked_for() -> None:
    (_, change), *_ = make("tempo_perturbation", sample_rate=8000, window_ms=25).versions
    assert change.keywords["window_samples"] == 200


def test_every_replica_is_as_likely_and_what_its_own_function_gives(waveforms: Callable[..., RawBatch]) -> None:
    """All five copies, told apart by their samples."""
    hook, seen = make("replicas"), Counter[int]()
    functions = [
        lambda x: x, partial(change_speed, factor=0.9), partial(change_speed, factor=1.1),
        partial(change_tempo, factor=0.9, window_samples=WINDOW), partial(change_tempo, factor=1.1, window_samples=WINDOW),
    ]  # fmt: skip
    for epoch in range(5):
        raw, given_signals = waveforms(IDS, epoch=epoch), waveforms(IDS).signals
        hook.on_batch(raw)
        for waveform, changed in zip(given_signals, raw.signals, strict=True):
            same = [torch.equal(changed, function(waveform)) for function in functions]
            assert sum(same) == 1
            seen[same.index(True)] += 1
    assert sum((seen[kind] - 100) ** 2 / 100 for kind in range(5)) < 18.5  # 0.1 % point of 4 degrees of freedom


@pytest.mark.parametrize("name", ["tempo_perturbation", "replicas"])
def test_what_is_drawn_depends_on_seed_epoch_utterance_and_name_alone(
    name: str, assert_keyed: Callable[..., None]
) -> None:
    assert_keyed(IDS[:40], make(name), pickle.loads(pickle.dumps(make(name))), unchanged=all)


def test_they_say_how_much_room_they_need() -> None:
    assert make("tempo_perturbation").lengthens == pytest.approx(1 / 0.9 - 1)
    assert make("replicas").lengthens == pytest.approx(1 / 0.9 - 1)
    assert make("replicas", tempo_factors=[0.8]).lengthens == pytest.approx(0.25)
    assert make("replicas", speed_factors=[1.1], tempo_factors=[]).lengthens == 0


def test_factors_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(ValueError, match=r"hooks\.tempo_perturbation\.factors is empty"):
        make("tempo_perturbation", factors=[])
    with pytest.raises(ValueError, match=r"hooks\.replicas\.speed_factors must be multiples of 0\.01"):
        make("replicas", speed_factors=[0.905])


def test_they_are_hooks_on_waveforms() -> None:
    for kind in (TempoPerturbation, Replicas, SpeedPerturbation):
        assert kind.stage == "waveform"
        assert kind.changes_training
