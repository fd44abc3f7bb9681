"""The same batch again: whatever was cached, drawn before, or lies beside an utterance."""

from collections.abc import Callable, Sequence

import pytest
import torch

from asr.data.batch import Batch, RawBatch, Stage, Unit
from asr.data.cache import SignalCache
from asr.data.features import LogMel
from asr.data.pipeline import BatchHook, UnitDataset

Build = Callable[..., UnitDataset]
Recorder = Callable[..., BatchHook]
Noise = Callable[[Stage], BatchHook]
Same = Callable[[Sequence[Batch], Sequence[Batch]], bool]


@pytest.mark.parametrize("stage", [None, "waveform", "mel", "normalised"])
def test_the_cache_changes_nothing_but_the_reading(
    dataset: Build,
    same_batches: Same,
    noise_hook: Noise,
    monkeypatch: pytest.MonkeyPatch,
    stage: Stage | None,
) -> None:
    hooks = [] if stage is None else [("noise", noise_hook(stage))]
    units = [Unit(epoch, 0, 0, (0, 1, 3)) for epoch in range(3)]
    plain = [dataset(hooks=hooks)[unit] for unit in units]
    assert (stage is None) == torch.equal(plain[0].features, plain[1].features)
    cached = dataset(hooks=hooks, cache=SignalCache(limit_gb=1))
    assert same_batches([cached[units[0]]], plain[:1])
    monkeypatch.setattr("asr.data.pipeline.read_audio", lambda *_, **__: pytest.fail("read again"))
    assert same_batches([cached[unit] for unit in units], plain)


def test_a_hook_that_writes_in_place_does_not_spoil_the_cache(
    dataset: Build, recorder: Recorder, same_batches: Same
) -> None:
    def silence(raw: RawBatch) -> None:
        raw.signals[0].zero_()

    cached, unit = dataset(cache=SignalCache(limit_gb=1)), Unit(0, 0, 0, (0,))
    before = cached[unit]
    cached.hooks["mel"] = [("silence", recorder("mel", [], silence))]
    assert not cached[unit].features.any()
    cached.hooks["mel"].clear()
    assert same_batches([cached[unit]], [before])


def test_dither_is_keyed_and_survives_the_cache(dataset: Build, same_batches: Same, dithered: LogMel) -> None:
    plain, cached = dataset(features=dithered), dataset(features=dithered, cache=SignalCache(limit_gb=1))
    units = [Unit(epoch, 0, 0, (0, 2)) for epoch in (0, 1, 0)]
    batches = [plain[unit] for unit in units]
    assert not torch.equal(batches[0].features, batches[1].features)
    assert same_batches(batches[:1], batches[2:])
    assert same_batches([cached[unit] for unit in units], batches)


def test_dither_is_the_same_whichever_hooks_there_are(
    dataset: Build, recorder: Recorder, same_batches: Same, dithered: LogMel
) -> None:
    hooks = [("idle", recorder("waveform", []))]
    unit = Unit(0, 0, 0, (0, 2))
    assert same_batches([dataset(features=dithered, hooks=hooks)[unit]], [dataset(features=dithered)[unit]])


def test_two_instances_of_a_hook_under_two_names_draw_different_numbers(dataset: Build, noise_hook: Noise) -> None:
    unit = Unit(0, 0, 0, (0,))
    one, again, other = (dataset(hooks=[(name, noise_hook("mel"))])[unit].features for name in ("a", "a", "b"))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_randomness_depends_on_the_utterance_not_on_its_neighbours(dataset: Build, noise_hook: Noise) -> None:
    noisy = dataset(hooks=[("noise", noise_hook("waveform"))])
    together, alone = noisy[Unit(0, 0, 0, (0, 1, 2))], noisy[Unit(0, 5, 1, (2,))]
    assert torch.equal(together.features[2, :48], alone.features[0])
