"""Recordings of the Free Spoken Digit Dataset, and which of them are train, dev and test.

Read as upstream publishes it: ``root/recordings/{digit}_{speaker}_{index}.wav``, 8 kHz, six speakers with fifty
recordings of each digit. The official split is kept: indices 0 to 4 are test, the rest is train; the first few of
the rest are dev. With a speaker held out, test is all of that speaker, and train and dev are the others' recordings
of the official training set.

https://github.com/Jakobovski/free-spoken-digit-dataset (CC BY-SA 4.0)
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from asr.data.corpus import CorpusError
from asr.data.words import UNITS
from distributed.errors import UsageError

SAMPLE_RATE = 8000  # Hz, of the recordings
TEST_INDICES = range(5)  # the official test set

_ORIGIN = "https://github.com/Jakobovski/free-spoken-digit-dataset"
_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<index>\d+)")


@dataclass(frozen=True, slots=True, order=True)
class Recording:
    """One spoken digit."""

    digit: int
    speaker: str
    index: int
    path: Path

    @property
    def word(self) -> str:
        return UNITS[self.digit]


def find_recordings(root: Path) -> list[Recording]:
    """All recordings below ``root/recordings``, in order of digit, speaker and index.

    Raises:
        CorpusError: there are none, or a file is not named as upstream names them.
    """
    recordings = []
    for path in (root / "recordings").glob("*.wav"):
        match = _NAME.fullmatch(path.stem)
        if match is None:
            raise CorpusError(f"{path} is not named digit_speaker_index.wav: remove it from data.root")
        recordings.append(Recording(int(match["digit"]), match["speaker"], int(match["index"]), path))
    if not recordings:
        raise CorpusError(f"data.root={root}: no recordings/*.wav there; git clone {_ORIGIN} and set data.root= to it")
    return sorted(recordings)


def split_recordings(
    recordings: Sequence[Recording], held_out: str | None, dev_recordings: int, train_recordings: int | None
) -> dict[str, list[Recording]]:
    """Sort recordings into train, dev and test; no recording is in two of them.

    Args:
        held_out: the speaker who alone is test, or None for the official split.
        dev_recordings: number of recordings of each digit and speaker, taken from the official training set.
        train_recordings: number taken of the remaining ones, for each digit and speaker; None for all. How much speech
            there is to learn from changes so, while dev and test stay what they are.

    Raises:
        ValueError: there is no such speaker, there are fewer recordings than are asked for, or a split is left empty.
    """
    speakers = sorted({recording.speaker for recording in recordings})
    if held_out is not None and held_out not in speakers:
        raise UsageError(f"data.held_out must be null or one of {', '.join(speakers)}, got {held_out!r}")
    dev_indices = range(TEST_INDICES.stop, TEST_INDICES.stop + dev_recordings)
    left = max(recording.index for recording in recordings) + 1 - dev_indices.stop
    if train_recordings is not None and train_recordings > left > 0:
        raise UsageError(
            f"data.train_recordings={train_recordings}: {left} are left for training; choose fewer, or null"
        )
    train_indices = range(dev_indices.stop, dev_indices.stop + (left if train_recordings is None else train_recordings))
    splits: dict[str, list[Recording]] = {"train": [], "dev": [], "test": []}
    for recording in recordings:
        if recording.speaker == held_out:
            splits["test"].append(recording)
        elif recording.index in TEST_INDICES:
            if held_out is None:
                splits["test"].append(recording)
        elif recording.index in dev_indices:
            splits["dev"].append(recording)
        elif recording.index in train_indices:
            splits["train"].append(recording)
    for split, members in splits.items():
        if not members:
            raise UsageError(
                f"no recording is left for {split} with data.held_out={held_out} and "
                f"data.dev_recordings={dev_recordings}: {len(speakers)} speakers, "
                f"indices up to {max(recording.index for recording in recordings)}"
            )
    return splits


def read_recording(recording: Recording) -> Tensor:
    """Read a recording: samples of shape (samples,) at 8 kHz, full scale at 1.

    Raises:
        CorpusError: the file cannot be read, or is not 8 kHz mono.
    """
    try:
        samples, rate = soundfile.read(recording.path, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise CorpusError(f"{recording.path}: cannot be read: {error}; get the corpus anew from {_ORIGIN}") from None
    if rate != SAMPLE_RATE or samples.ndim != 1 or not len(samples):
        raise CorpusError(
            f"{recording.path}: expected {SAMPLE_RATE} Hz, one channel, some samples; "
            f"got {rate} Hz, shape {samples.shape}; get the corpus anew from {_ORIGIN}"
        )
    return torch.from_numpy(samples)
