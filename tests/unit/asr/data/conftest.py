"""Small corpora on disk, with and without defects; units of them, and hooks that watch or change them."""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from asr.data.batch import Batch, RawBatch, Stage
from asr.data.cache import SignalCache
from asr.data.features import LogMel
from asr.data.manifest import Utterance
from asr.data.pipeline import BatchHook, UnitDataset
from asr.data.tokenizer import CharacterTokenizer
from asr.training.hook import Hook

MakeUtterance = Callable[..., Utterance]

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
def make_utterance(tmp_path: Path) -> MakeUtterance:
    """Write an audio file of noise and describe it; keyword arguments replace what the manifest says."""

    def make(
        name: str = "a",
        seconds: float = 0.5,
        *,
        sample_rate: int = 16000,
        channels: int = 1,
        suffix: str = ".wav",
        subtype: str | None = None,
        samples: np.ndarray | None = None,
        **claims: object,
    ) -> Utterance:
        file = tmp_path / f"{name}{suffix}"
        if samples is None:
            shape = (round(seconds * sample_rate), channels)[: 1 if channels == 1 else 2]
            samples = 0.1 * np.random.default_rng(len(name) + round(1000 * seconds)).standard_normal(shape)
        soundfile.write(file, samples, sample_rate, subtype=subtype)
        described = {"id": name, "audio_filepath": file, "duration": seconds, "text": "hello", "speaker": "s"}
        return Utterance(**(described | claims))

    return make


def small_features(dither: float) -> LogMel:
    """Kaldi features at 16 kHz."""
    return LogMel(
        sample_rate=16000,
        num_mels=20,
        frame_length_ms=25.0,
        frame_shift_ms=10.0,
        dither=dither,
        normalise="utterance",
        deltas=0,
        stack=1,
    )


@pytest.fixture
def log_mel() -> LogMel:
    """Small features."""
    return small_features(dither=0.0)


@pytest.fixture
def dithered() -> LogMel:
    """Small features with noise."""
    return small_features(dither=1.0)


@pytest.fixture
def characters() -> CharacterTokenizer:
    """Lower-case letters, space and apostrophe."""
    return CharacterTokenizer(alphabet=" abcdefghijklmnopqrstuvwxyz'", case="lower")


@pytest.fixture
def noise_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Stage], BatchHook]:
    """``noise_hook(stage)``: adds noise keyed by utterance; loading processes can import it."""
    (tmp_path / "noise_hook.py").write_text(NOISE_HOOK)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("noise_hook", None)
    return importlib.import_module("noise_hook").Noise


@pytest.fixture
def corpus(make_utterance: MakeUtterance) -> list[Utterance]:
    """Four utterances, one without a text."""
    texts = ["hello", "", "it's a cat", "no"]
    return [make_utterance(f"u{i}", 0.3 + 0.1 * i, text=text) for i, text in enumerate(texts)]


@pytest.fixture
def dataset(corpus: list[Utterance], characters: CharacterTokenizer, log_mel: LogMel) -> Callable[..., UnitDataset]:
    """``dataset(**changes)``: units of the corpus, without hooks and cache unless told otherwise."""

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


class Recorder(Hook):
    """Notes what it sees; may change it."""

    def __init__(self, stage: Stage | None, log: list[str], change: Callable[[RawBatch], None] | None = None) -> None:
        self.stage: Stage | None = stage
        self.log = log
        self.change = change

    def on_batch(self, raw: RawBatch) -> None:
        self.log.append(f"{self.stage} {tuple(raw.signals[0].shape)} {raw.signals[0].mean().abs() < 1e-4:d}")
        if self.change is not None:
            self.change(raw)


@pytest.fixture
def recorder() -> Callable[..., BatchHook]:
    """``recorder(stage, log, change=None)``: a hook that notes what it sees and may change it."""
    return Recorder


def are_same(one: Sequence[Batch], other: Sequence[Batch]) -> bool:
    """Whether all fields of all batches are equal, bitwise."""

    def equal(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)

    fields = Batch.__dataclass_fields__
    return len(one) == len(other) and all(
        equal(getattr(a, name), getattr(b, name)) for a, b in zip(one, other, strict=True) for name in fields
    )


@pytest.fixture
def same_batches() -> Callable[[Sequence[Batch], Sequence[Batch]], bool]:
    """Whether batches are bitwise the same."""
    return are_same


@pytest.fixture(scope="session")
def fsdd_root() -> Path:
    """The real copy of the Free Spoken Digit Dataset that the environment variable MURMURATION_FSDD names."""
    named = os.environ.get("MURMURATION_FSDD")
    if not named:
        pytest.skip("needs a copy of the Free Spoken Digit Dataset; set MURMURATION_FSDD to its folder")
    if not (Path(named) / "recordings").is_dir():
        pytest.fail(f"MURMURATION_FSDD={named} has no folder recordings: it names no Free Spoken Digit Dataset")
    return Path(named)


@pytest.fixture
def small_fsdd(tmp_path: Path) -> Path:
    """A generated tree in the layout of the Free Spoken Digit Dataset.

    Two speakers, the digits 0 to 4, eight recordings each. A recording is a constant of its own, so that one can tell from
    the samples of a corpus which recordings it was made of: 1 + 1000 (ben) + 100 x digit + index, in 16-bit units.
    """
    folder = tmp_path / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    for position, speaker in enumerate(("anna", "ben")):
        for digit in range(5):
            for index in range(8):
                samples = np.full(400 + 10 * digit + index, 1 + 1000 * position + 100 * digit + index, dtype=np.int16)
                soundfile.write(folder / f"{digit}_{speaker}_{index}.wav", samples, 8000, subtype="PCM_16")
    return folder.parent
