"""What hooks on waveforms need: recordings on disk, and batches of utterances."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr.data.batch import RawBatch, keyed_seed
from asr.data.manifest import Utterance, write_manifest


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
