"""The pipeline: stages in order, padding, bad utterances under both policies, and repeatability with any workers."""

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from asr.data.audio import BadUtterance, read_audio
from asr.data.batch import Batch, RawBatch, Stage, Unit
from asr.data.cache import SignalCache
from asr.data.features import LogMel
from asr.data.manifest import Utterance
from asr.data.pipeline import BatchHook, HookError, UnitDataset, unit_loader
from asr.data.tokenizer import CharacterTokenizer
from asr.training.hook import Hook
from asr.training.precision import choose_matmul, onednn_usable

Make = Callable[..., Utterance]

# Workers import the hooks they get, so this one lives in a module of its own on the path.
NOISE_HOOK = """
import torch
from asr.training.hook import Hook


class Noise(Hook):
    def __init__(self, stage):
        self.stage = stage

    def on_batch(self, raw):
        for position, signal in enumerate(raw.signals):
            noise = torch.randn(signal.shape, generator=raw.generator(position))
            raw.signals[position] = signal + 0.01 * noise
            raw.metrics["noise"] = raw.metrics.get("noise", 0.0) + float(noise.mean())
"""


@pytest.fixture
def noise_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Stage], BatchHook]:
    (tmp_path / "noise_hook.py").write_text(NOISE_HOOK)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("noise_hook", None)
    return importlib.import_module("noise_hook").Noise


@pytest.fixture
def corpus(make_utterance: Make) -> list[Utterance]:
    texts = ["hello", "", "it's a cat", "no"]
    return [make_utterance(f"u{i}", 0.3 + 0.1 * i, text=text) for i, text in enumerate(texts)]


@pytest.fixture
def dataset(corpus: list[Utterance], characters: CharacterTokenizer, log_mel: LogMel) -> Callable[..., UnitDataset]:
    def build(**changes: Any) -> UnitDataset:
        settings: dict[str, Any] = {
            "utterances": corpus,
            "tokenizer": characters,
            "features": log_mel,
            "hooks": [],
            "seed": 1,
            "on_bad": "stop",
            "resample": False,
            "cache": SignalCache(limit_gb=0),
        }
        return UnitDataset(**(settings | changes))

    return build


Build = Callable[..., UnitDataset]


class Recorder(Hook):
    """Notes what it sees; may change it."""

    def __init__(self, stage: Stage | None, log: list[str], change: Callable[[RawBatch], None] | None = None) -> None:
        self.stage: Stage | None = stage  # type: ignore[misc]
        self.log = log
        self.change = change

    def on_batch(self, raw: RawBatch) -> None:
        self.log.append(f"{self.stage} {tuple(raw.signals[0].shape)} {raw.signals[0].mean().abs() < 1e-4:d}")
        if self.change is not None:
            self.change(raw)


def same(one: Sequence[Batch], other: Sequence[Batch]) -> bool:
    def equal(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)

    fields = Batch.__dataclass_fields__
    return len(one) == len(other) and all(
        equal(getattr(a, name), getattr(b, name)) for a, b in zip(one, other, strict=True) for name in fields
    )


def test_a_batch_is_padded_and_complete(dataset: Build, corpus: list[Utterance], log_mel: LogMel) -> None:
    batch = dataset()[Unit(3, 1, 2, (2, 1, 0))]
    assert batch.utterance_ids == ["u2", "u1", "u0"]
    assert batch.feature_lengths.tolist() == [48, 38, 28]
    assert batch.features.shape == (3, 48, 20)
    assert batch.features.dtype == torch.float32
    assert batch.target_lengths.tolist() == [10, 0, 5]
    assert batch.targets.shape == (3, 10)
    assert batch.targets[2].tolist() == [9, 6, 13, 13, 16, 0, 0, 0, 0, 0]
    assert torch.equal(batch.targets, batch.predictor_inputs)
    assert (batch.weight, batch.refused, batch.unit) == (3.0, [], "3-1-2")
    assert batch.audio_seconds == pytest.approx(1.2)
    for row, index in enumerate((2, 1, 0)):
        expected_TF = log_mel.normalise(log_mel.mel(read_audio(corpus[index], 16000, resample=False)))
        assert torch.equal(batch.features[row, : len(expected_TF)], expected_TF)
        assert not batch.features[row, len(expected_TF) :].any()


def test_deltas_and_stacking_come_between_normalised_and_targets(
    dataset: Build, corpus: list[Utterance], log_mel: LogMel
) -> None:
    """Hooks up to ``normalised`` see plain frames, whose deltas are then of what those hooks left."""
    wide = LogMel(
        sample_rate=16000, num_mels=20, frame_length_ms=25.0, frame_shift_ms=10.0, dither=0.0, normalise="utterance",
        deltas=2, stack=2,
    )  # fmt: skip
    log: list[str] = []

    def halve(raw: RawBatch) -> None:
        raw.signals[:] = [0.5 * signal for signal in raw.signals]

    stages: list[Stage] = ["mel", "normalised", "targets"]
    hooks = [(stage, Recorder(stage, log, halve if stage == "normalised" else None)) for stage in stages]
    batch = dataset(features=wide, hooks=hooks)[Unit(0, 0, 0, (0, 1))]
    assert [line[:-2] for line in log] == ["mel (28, 20)", "normalised (28, 20)", "targets (14, 120)"]
    assert batch.features.shape == (2, 19, 120)
    assert batch.feature_lengths.tolist() == [14, 19]
    for row, length in enumerate((14, 19)):
        normal_TF = log_mel.normalise(log_mel.mel(read_audio(corpus[row], 16000, resample=False)))
        assert torch.equal(batch.features[row, :length], wide.in_context(0.5 * normal_TF))
    assert dataset(features=wide)[Unit(0, 0, 0, ())].features.shape == (0, 0, 120)


def test_only_empty_texts(dataset: Build) -> None:
    batch = dataset()[Unit(0, 0, 0, (1,))]
    assert batch.targets.shape == (1, 0)
    assert batch.target_lengths.tolist() == [0]


def test_hooks_run_by_stage_and_then_by_position(dataset: Build) -> None:
    log: list[str] = []
    stages: list[Stage] = ["targets", "normalised", "mel", "waveform", "mel"]
    dataset(hooks=[(f"h{i}", Recorder(stage, log)) for i, stage in enumerate(stages)])[Unit(0, 0, 0, (0,))]
    assert [line[:-2] for line in log] == [
        "waveform (4800,)",
        "mel (28, 20)",
        "mel (28, 20)",
        "normalised (28, 20)",
        "targets (28, 20)",
    ]
    assert [line[-1] for line in log[1:]] == ["0", "0", "1", "1"]  # normalised in between


def test_hooks_without_a_stage_do_not_run(dataset: Build) -> None:
    idle = Recorder(None, [], lambda _: pytest.fail("a hook without a stage saw a batch"))
    assert dataset(hooks=[("idle", idle)])[Unit(0, 0, 0, (0,))].weight == 1.0


def test_predictor_inputs_can_be_changed_alone(dataset: Build) -> None:
    def swap(raw: RawBatch) -> None:
        raw.predictor_inputs[0][0] = 7

    batch = dataset(hooks=[("swap", Recorder("targets", [], swap))])[Unit(0, 0, 0, (0,))]
    assert batch.predictor_inputs[0, 0] == 7
    assert batch.targets[0, 0] == 9


@pytest.mark.parametrize("stage", ["waveform", "mel", "normalised"])
def test_a_hook_that_breaks_a_signal_is_named(dataset: Build, stage: Stage) -> None:
    def empty(raw: RawBatch) -> None:
        raw.signals[0] = raw.signals[0][:0]

    with pytest.raises(HookError, match=f"hook 'breaker' left utterance u0 .* in stage {stage}"):
        dataset(hooks=[("breaker", Recorder(stage, [], empty))])[Unit(0, 0, 0, (0,))]


def test_a_hook_that_loses_an_utterance_is_named(dataset: Build) -> None:
    with pytest.raises(HookError, match="hook 'loser' must leave 2 signals"):
        dataset(hooks=[("loser", Recorder("mel", [], lambda raw: raw.targets.clear()))])[Unit(0, 0, 0, (0, 1))]


def bad_utterances(make: Make, folder: Path) -> dict[str, Utterance]:
    """What only reading finds, or what happened to the files after the screening; by a piece of the reason."""
    (folder / "empty.wav").touch()
    cut = make("cut", 2.0, suffix=".flac")
    cut.audio_filepath.write_bytes(cut.audio_filepath.read_bytes()[:8000])
    return {
        "no such file": Utterance("missing", folder / "missing.wav", 1.0, ""),
        "is empty": Utterance("empty", folder / "empty.wav", 1.0, ""),
        "zero length": make("zero", samples=np.zeros(0), duration=0.5),
        "is nan": make("nan", samples=np.full(8000, np.nan), duration=0.5, subtype="FLOAT"),
        "8000 Hz": make("slow", sample_rate=8000),
        "2 channels": make("stereo", channels=2),
        "lasts": make("liar", duration=3.0),
        "breaks off": cut,
        "too short for one frame": make("blip", seconds=0.02),
        "'é'": make("symbols", text="café"),
    }


def test_stop_raises_on_every_kind_of_bad_utterance(dataset: Build, make_utterance: Make, tmp_path: Path) -> None:
    for reason, utterance in bad_utterances(make_utterance, tmp_path).items():
        with pytest.raises(BadUtterance, match=reason) as caught:
            dataset(utterances=[utterance])[Unit(0, 0, 0, (0,))]
        assert caught.value.file == utterance.audio_filepath


def test_skip_counts_and_names_them(
    dataset: Build, corpus: list[Utterance], make_utterance: Make, tmp_path: Path
) -> None:
    bad = bad_utterances(make_utterance, tmp_path)
    skipping = dataset(utterances=[*bad.values(), *corpus], on_bad="skip")
    batch = skipping[Unit(0, 0, 0, tuple(range(len(bad) + 2)))]
    assert (len(batch.refused), batch.weight, batch.utterance_ids) == (len(bad), 2.0, ["u0", "u1"])
    assert batch.audio_seconds == pytest.approx(0.7)
    assert same([replace(batch, refused=[])], [dataset()[Unit(0, 0, 0, (0, 1))]])
    named = "\n".join(map(str, batch.refused))
    for utterance in bad.values():
        assert str(utterance.audio_filepath) in named


def test_an_emptied_unit_is_a_valid_batch(dataset: Build, tmp_path: Path) -> None:
    missing = [Utterance("missing", tmp_path / "missing.wav", 1.0, "x")]
    hooks = [("recorder", Recorder("mel", []))]
    batch = dataset(utterances=missing, on_bad="skip", hooks=hooks)[Unit(0, 0, 0, (0,))]
    assert (batch.weight, len(batch.refused), batch.audio_seconds) == (0.0, 1, 0.0)
    assert batch.features.shape == (0, 0, 20)
    assert batch.targets.shape == (0, 0)
    assert batch.feature_lengths.shape == batch.target_lengths.shape == (0,)


@pytest.mark.parametrize("stage", [None, "waveform", "mel", "normalised"])
def test_the_cache_changes_nothing_but_the_reading(
    dataset: Build,
    corpus: list[Utterance],
    noise_hook: Callable[[Stage], BatchHook],
    monkeypatch: pytest.MonkeyPatch,
    stage: Stage | None,
) -> None:
    hooks = [] if stage is None else [("noise", noise_hook(stage))]
    units = [Unit(epoch, 0, 0, (0, 1, 3)) for epoch in range(3)]
    plain = [dataset(hooks=hooks)[unit] for unit in units]
    assert (stage is None) == torch.equal(plain[0].features, plain[1].features)
    cached = dataset(hooks=hooks, cache=SignalCache(limit_gb=1))
    assert same([cached[units[0]]], plain[:1])
    monkeypatch.setattr("asr.data.pipeline.read_audio", lambda *_, **__: pytest.fail("read again"))
    assert same([cached[unit] for unit in units], plain)


def test_a_hook_that_writes_in_place_does_not_spoil_the_cache(dataset: Build) -> None:
    def silence(raw: RawBatch) -> None:
        raw.signals[0].zero_()

    cached, unit = dataset(cache=SignalCache(limit_gb=1)), Unit(0, 0, 0, (0,))
    before = cached[unit]
    cached.hooks["mel"] = [("silence", Recorder("mel", [], silence))]
    assert not cached[unit].features.any()
    cached.hooks["mel"].clear()
    assert same([cached[unit]], [before])


def test_dither_is_keyed_and_survives_the_cache(dataset: Build, dithered: LogMel) -> None:
    plain, cached = dataset(features=dithered), dataset(features=dithered, cache=SignalCache(limit_gb=1))
    units = [Unit(epoch, 0, 0, (0, 2)) for epoch in (0, 1, 0)]
    batches = [plain[unit] for unit in units]
    assert not torch.equal(batches[0].features, batches[1].features)
    assert same(batches[:1], batches[2:])
    assert same([cached[unit] for unit in units], batches)


def test_dither_is_the_same_whichever_hooks_there_are(dataset: Build, dithered: LogMel) -> None:
    hooks = [("idle", Recorder("waveform", []))]
    unit = Unit(0, 0, 0, (0, 2))
    assert same([dataset(features=dithered, hooks=hooks)[unit]], [dataset(features=dithered)[unit]])


def test_two_instances_of_a_hook_under_two_names_draw_different_numbers(
    dataset: Build, noise_hook: Callable[[Stage], BatchHook]
) -> None:
    unit = Unit(0, 0, 0, (0,))
    one, again, other = (dataset(hooks=[(name, noise_hook("mel"))])[unit].features for name in ("a", "a", "b"))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_randomness_depends_on_the_utterance_not_on_its_neighbours(
    dataset: Build, noise_hook: Callable[[Stage], BatchHook]
) -> None:
    noisy = dataset(hooks=[("noise", noise_hook("waveform"))])
    together, alone = noisy[Unit(0, 0, 0, (0, 1, 2))], noisy[Unit(0, 5, 1, (2,))]
    assert torch.equal(together.features[2, :48], alone.features[0])


UNITS = [Unit(epoch, batch, 0, (batch, 3)) for epoch in range(2) for batch in range(3)]


def load(dataset: UnitDataset, num_workers: int) -> list[Batch]:
    return list(unit_loader(dataset, iter(UNITS), num_workers=num_workers, prefetch=2))


@pytest.mark.parametrize("matmul", ["mkl", "onednn"])
def test_the_same_batches_with_any_number_of_workers(
    dataset: Build, noise_hook: Callable[[Stage], BatchHook], matmul: Literal["mkl", "onednn"]
) -> None:
    """Also on the path of matrix products that is not torch's default: loading processes take it over."""
    if matmul == "onednn" and not onednn_usable():
        pytest.skip("this processor has no oneDNN path for fp32 products")
    choose_matmul(matmul)
    noisy = dataset(
        hooks=[("noise", noise_hook("waveform")), ("more", noise_hook("normalised"))], cache=SignalCache(limit_gb=1)
    )
    before = torch.get_rng_state()
    in_process, by_workers = load(noisy, 0), load(noisy, 2)
    assert [batch.unit for batch in in_process] == [unit.name for unit in UNITS]
    assert same(in_process, by_workers)
    assert torch.equal(before, torch.get_rng_state())  # creating an iterator must not consume the global generator


def test_a_bad_utterance_in_a_worker_is_one_line(dataset: Build, corpus: list[Utterance], tmp_path: Path) -> None:
    broken = dataset(utterances=[*corpus[:3], Utterance("missing", tmp_path / "missing.wav", 1.0, "x")])
    with pytest.raises(BadUtterance) as caught:
        load(broken, 1)
    assert caught.value.utterance_id == "missing"
    assert "\n" not in str(caught.value)


def test_units_are_claimed_one_by_one_in_process(dataset: Build) -> None:
    claimed: list[Unit] = []

    def claims() -> Any:
        for unit in UNITS:
            claimed.append(unit)
            yield unit

    next(unit_loader(dataset(), claims(), num_workers=0, prefetch=2))
    assert claimed == UNITS[:1]


@pytest.mark.parametrize("fault", ["shorter inputs", "blank", "beyond"])
def test_a_hook_that_leaves_impossible_tokens_is_blamed(dataset: Callable[..., UnitDataset], fault: str) -> None:
    class Careless:
        stage = "targets"

        def on_batch(self, raw: RawBatch) -> None:
            raw.targets[0] = {"shorter inputs": [1, 2, 3, 4, 5, 6], "blank": [0] * 5, "beyond": [99] * 5}[fault]

    with pytest.raises(HookError, match=r"hook 'careless' left utterance u0 .* they must be as many, each a token"):
        dataset(hooks=[("careless", Careless())])[Unit(0, 0, 0, (0, 1))]
