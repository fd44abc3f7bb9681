"""What hooks on waveforms need: recordings on disk, and batches of utterances."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr.data.batch import RawBatch, keyed_seed
from asr.data.manifest import Utterance, write_manifest
from asr.training.hook import Hook


@pytest.fixture
def write_recordings(tmp_path: Path) -> Callable[..., Path]:
    """Write arrays of samples, or (samples, rate) as WAV with a manifest that has no text; returns the manifest."""

    def write(*recordings: np.ndarray | tuple[np.ndarray, int], name: str = "recordings") -> Path:
        described = []
        for number, recording in enumerate(recordings):
            samples, rate = recording if isinstance(recording, tuple) else (recording, 16000)
            file = tmp_path / name / f"{number}.wav"
            file.parent.mkdir(exist_ok=True)
            soundfile.write(file, samples, rate, subtype="FLOAT")
            described.append(Utterance(file.stem, file, len(samples) / rate, ""))
        write_manifest(tmp_path / f"{name}.jsonl", described)
        return tmp_path / f"{name}.jsonl"

    return write


@pytest.fixture
def waveforms() -> Callable[..., RawBatch]:
    """A unit of utterances of noise, each the same whatever the others are."""

    def make(ids: list[str], *, samples: int = 4000, epoch: int = 0, seed: int = 1, hook: str = "a") -> RawBatch:
        signals = [torch.randn(samples, generator=torch.Generator().manual_seed(keyed_seed(i))) for i in ids]
        return RawBatch(seed, epoch, list(ids), signals, [[1]] * len(ids), [[1]] * len(ids), hook=hook)

    return make


@pytest.fixture
def assert_keyed(waveforms: Callable[..., RawBatch]) -> Callable[..., None]:
    """What a hook draws depends on seed, epoch, utterance and name alone: not on the batch, on what was drawn before, on the
    memory for recordings, or on the process. ``others`` are hooks that must do the same as the first; ``unchanged`` is any where
    another key must change every utterance, all where two draws may be the same.
    """

    def check(ids: list[str], hook: Hook, *others: Hook, unchanged: Callable[..., bool]) -> None:
        together = waveforms(ids)
        hook.on_batch(together)
        for other in (hook, pickle.loads(pickle.dumps(hook)), *others):
            reversed_batch = waveforms(ids[::-1])
            other.on_batch(reversed_batch)
            assert all(map(torch.equal, reversed_batch.signals[::-1], together.signals))
        for key in ({"epoch": 1}, {"seed": 2}, {"hook": "b"}):
            changed = waveforms(ids, **key)
            hook.on_batch(changed)
            assert not unchanged(map(torch.equal, changed.signals, together.signals))

    return check
