"""Corpora: where the manifests of a run come from.

A corpus names its splits (``train``, ``dev``, ``test``) and makes what is missing: ``prepare()`` is called by every
process of a run, one of them does the work under a file lock, the others wait and find it done. What was made lies in
a folder named by a hash of everything that determines its content, so that another seed is another folder and a
folder that exists is complete: it appears by a single rename.
"""

import hashlib
import json
import shutil
import wave
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from asr.data.locking import locked
from distributed.errors import UsageError
from distributed.ranges import Count


class CorpusError(UsageError):
    """A corpus that cannot be found or made; the message names the folder and the remedy."""


class Corpus(ABC):
    """Base of all corpora: what the loader needs to know, and the manifests."""

    def __init__(self, *, root: Path, sample_rate: Count, on_bad: Literal["stop", "skip"], resample: bool) -> None:
        """``sample_rate`` in Hz of every utterance; ``on_bad`` says what the loader does with unusable ones.

        ``resample`` makes utterances of files with another rate usable.
        """
        if on_bad not in ("stop", "skip"):
            raise UsageError(f"data.on_bad must be stop or skip, got {on_bad!r}")
        self.root = Path(root)
        self.sample_rate = sample_rate
        self.on_bad = on_bad
        self.resample = resample
        self.writable: Sequence[Path] | None = (
            None  # folders below which it may be made; None: wherever it is said to be
        )

    @abstractmethod
    def prepare(self) -> dict[str, Path]:
        """Make what is missing and return the manifest of each split; any number of processes may call it at once.

        Raises:
            CorpusError: the corpus is not where the configuration says, or cannot be written.
        """

    def make_once(self, folder: Path, make: Callable[[Path], None], key: str) -> None:
        """Call the module's function ``make_once``, but only for folders below ``writable``.

        Raises:
            CorpusError: the folder is missing and lies elsewhere, or cannot be written.
        """
        if not folder.is_dir() and not self.may_write(folder):
            raise CorpusError(
                f"{key}={folder.parent}: the run's configuration would have files written there, outside the working "
                "directory and the run; make them with python scripts/prepare.py and the run's settings of data, "
                "or name a manifest: sets=[path/to/test.jsonl]"
            )
        make_once(folder, make, key)

    def may_write(self, folder: Path) -> bool:
        """Whether files may be written to ``folder``, as far as ``writable`` is concerned."""
        if self.writable is None:
            return True
        place = folder.resolve()
        return any(place.is_relative_to(each.resolve()) for each in self.writable)


class ManifestCorpus(Corpus):
    """The user's own JSONL manifests; nothing is made or copied."""

    def __init__(
        self,
        *,
        root: Path,
        sample_rate: Count,
        on_bad: Literal["stop", "skip"],
        resample: bool,
        train: Path,
        dev: Path | None,
        test: Path | None,
    ) -> None:
        super().__init__(root=root, sample_rate=sample_rate, on_bad=on_bad, resample=resample)
        self.splits = {
            split: self.root / path
            for split, path in (("train", train), ("dev", dev), ("test", test))
            if path is not None
        }

    def prepare(self) -> dict[str, Path]:
        """Return the manifests after checking that they exist."""
        for split, path in self.splits.items():
            if not path.is_file():
                raise CorpusError(
                    f"data.{split}: there is no manifest {path}; "
                    f"paths are relative to data.root={self.root}, give an existing file or an absolute path"
                )
        return dict(self.splits)


def content_hash(**parameters: object) -> str:
    """Ten hexadecimal digits that change whenever a parameter does."""
    text = json.dumps(parameters, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def write_wav(path: Path, samples: Tensor, sample_rate: int) -> float:
    """Write samples of shape (samples,) as 16-bit PCM, clipped to [-1, 1]; returns the duration in seconds."""
    pcm = (samples * 32767).round().clamp(-32768, 32767).short()
    with wave.open(str(path), "wb") as file:  # not soundfile, which does not report a full disk
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.setnframes(len(pcm))
        file.writeframes(pcm.numpy().astype("<i2").tobytes())
    return len(pcm) / sample_rate


def make_once(folder: Path, make: Callable[[Path], None], key: str) -> None:
    """Make ``folder`` unless it exists; among processes that ask at the same time exactly one calls ``make``.

    ``make`` fills the empty folder it is given, which gets its final name only afterwards: a folder that exists is
    complete, even if a process was killed meanwhile. ``key`` is the configuration key that errors name.

    Raises:
        CorpusError: the folder cannot be written (permissions, full disk).
    """
    if folder.is_dir():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f".{folder.name}.lock")
        with locked(lock, f"another process that makes the corpus {folder}"):
            if not folder.is_dir():
                _make(folder, make)
    except OSError as error:
        raise CorpusError(
            f"{key}={folder.parent}: cannot make the corpus there: {error}; choose a folder with room to write"
        ) from error


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process: we hold the lock, so nobody uses it
    partial.mkdir()
    try:
        make(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
