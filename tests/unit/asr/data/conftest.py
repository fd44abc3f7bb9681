"""Small corpora on disk, with and without defects."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data.features import LogMel
from asr.data.manifest import Utterance
from asr.data.tokenizer import CharacterTokenizer

MakeUtterance = Callable[..., Utterance]


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
        return Utterance(**(described | claims))  # type: ignore[arg-type]

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
