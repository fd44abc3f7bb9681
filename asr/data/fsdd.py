"""Spoken digits, one by one or joined to strings: corpora made from the recordings of asr/data/fsdd_recordings.py."""

import json
import logging
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from asr.data.batch import keyed_seed
from asr.data.corpus import Corpus, content_hash, write_wav
from asr.data.digit_strings import DigitSource, digit_source
from asr.data.fsdd_recordings import SAMPLE_RATE, Recording, find_recordings, read_recording, split_recordings
from asr.data.manifest import Utterance, write_manifest
from asr.data.resampling import Resampler
from distributed.errors import UsageError
from distributed.ranges import Count, Natural, checked_interval

FORMAT = 1  # raised whenever the same recordings and parameters would give another corpus

logger = logging.getLogger(__name__)


class _FsddCorpus(Corpus):
    """Base of both corpora: finds the recordings, splits them, and makes a folder of WAV files from them."""

    def __init__(
        self,
        *,
        root: Path,
        cache: Path,
        sample_rate: Count,
        on_bad: Literal["stop", "skip"],
        held_out: str | None,
        dev_recordings: Count,
        train_recordings: Count | None,
    ) -> None:
        super().__init__(root=root, sample_rate=sample_rate, on_bad=on_bad, resample=False)
        self.cache = Path(cache)
        self.held_out = held_out
        self.dev_recordings = dev_recordings
        self.train_recordings = train_recordings

    def prepare(self) -> dict[str, Path]:
        """Make the corpus under ``cache`` unless it is there: a few seconds."""
        recordings = find_recordings(self.root)
        splits = split_recordings(recordings, self.held_out, self.dev_recordings, self.train_recordings)
        parameters = {
            "corpus": type(self).__name__,
            "format": FORMAT,
            "recordings": content_hash(files=[(r.path.name, r.path.stat().st_size) for r in recordings]),
            "sample_rate": self.sample_rate,
            "held_out": self.held_out,
            "dev_recordings": self.dev_recordings,
            "train_recordings": self.train_recordings,
            **self.own_parameters(),
        }

        def make(folder: Path) -> None:
            logger.info("making %s from %d recordings in %s", type(self).__name__, len(recordings), self.cache)
            for split, members in splits.items():
                (folder / split).mkdir()
                write_manifest(folder / f"{split}.jsonl", self.make_split(split, members, folder / split))
            (folder / "corpus.json").write_text(json.dumps(parameters, indent=2) + "\n", encoding="utf-8")

        folder = self.cache / content_hash(**parameters)
        self.make_once(folder, make, key="data.cache")
        return {split: folder / f"{split}.jsonl" for split in splits}

    @abstractmethod
    def own_parameters(self) -> dict[str, Any]:
        """The parameters that determine the content, beside the recordings and their split."""

    @abstractmethod
    def make_split(self, split: str, recordings: Sequence[Recording], folder: Path) -> list[Utterance]:
        """Write the audio of one split into ``folder``."""


class FsddDigits(_FsddCorpus):
    """Isolated digits: every recording is an utterance of one word."""

    def own_parameters(self) -> dict[str, Any]:
        return {}

    def make_split(self, split: str, recordings: Sequence[Recording], folder: Path) -> list[Utterance]:
        resample = Resampler(SAMPLE_RATE, self.sample_rate)
        utterances = []
        for recording in recordings:
            path = folder / recording.path.name
            duration = write_wav(path, resample(read_recording(recording)), self.sample_rate)
            utterances.append(
                Utterance(
                    id=path.stem, audio_filepath=path, duration=duration, text=recording.word, speaker=recording.speaker
                )
            )
        return utterances


@dataclass(frozen=True, slots=True)
class DigitString:
    """Recordings of one speaker to be joined; ``silence_seconds`` before each of them and after the last."""

    recordings: tuple[Recording, ...]
    silence_seconds: tuple[float, ...]


def draw_string(
    recordings: Mapping[str, Mapping[int, Sequence[Recording]]],
    source: DigitSource,
    silence_seconds: tuple[float, float],
    key: tuple[int, str, int],
) -> DigitString:
    """A random digit string, a function of its ``key`` (seed, split, index) alone; speakers take turns.

    Args:
        recordings: by speaker and digit.
        silence_seconds: shortest and longest silence, uniform.
    """
    generator = torch.Generator().manual_seed(keyed_seed(*key))
    speakers = sorted(recordings)
    speaker = speakers[key[-1] % len(speakers)]
    by_digit = recordings[speaker]
    digits = source.draw(generator, sorted(by_digit))
    if missing := set(digits) - set(by_digit):
        raise UsageError(
            f"data.language=everyday needs all ten digits of every speaker; {speaker} has no recording of {min(missing)}: "
            "give data.root a whole copy, or set data.language=null"
        )
    pools = [by_digit[digit] for digit in digits]
    shortest, longest = silence_seconds
    silences = shortest + (longest - shortest) * torch.rand(len(pools) + 1, generator=generator, dtype=torch.float64)
    return DigitString(
        recordings=tuple(pool[int(torch.randint(len(pool), (), generator=generator))] for pool in pools),
        silence_seconds=tuple(silences.tolist()),
    )


class FsddConnected(_FsddCorpus):
    """Strings of digits of one speaker, joined with silences."""

    def __init__(
        self,
        *,
        root: Path,
        cache: Path,
        sample_rate: Count,
        on_bad: Literal["stop", "skip"],
        held_out: str | None,
        dev_recordings: Count,
        train_recordings: Count | None,
        min_digits: Count,
        max_digits: Count,
        language: Literal["everyday"] | None,
        silence_seconds: tuple[float, float],
        train_strings: Count,
        dev_strings: Count,
        test_strings: Count,
        seed: Natural,
    ) -> None:
        super().__init__(
            root=root,
            cache=cache,
            sample_rate=sample_rate,
            on_bad=on_bad,
            held_out=held_out,
            dev_recordings=dev_recordings,
            train_recordings=train_recordings,
        )
        if min_digits > max_digits:
            raise UsageError(f"data.min_digits={min_digits} must not be above data.max_digits={max_digits}")
        self.num_digits = (min_digits, max_digits)
        self.language = language
        self.source = digit_source(language, self.num_digits)
        self.silence_seconds = checked_interval("data.silence_seconds", silence_seconds, low=0)
        self.strings = {"train": train_strings, "dev": dev_strings, "test": test_strings}
        self.seed = seed

    def own_parameters(self) -> dict[str, Any]:
        return {
            "num_digits": self.num_digits,
            "silence_seconds": self.silence_seconds,
            "strings": self.strings,
            "seed": self.seed,
            **({} if self.language is None else {"language": self.language}),  # corpora without one keep their folder
        }

    def make_split(self, split: str, recordings: Sequence[Recording], folder: Path) -> list[Utterance]:
        resample = Resampler(SAMPLE_RATE, self.sample_rate)
        by_speaker: dict[str, dict[int, list[Recording]]] = defaultdict(lambda: defaultdict(list))
        for recording in recordings:
            by_speaker[recording.speaker][recording.digit].append(recording)
        audio = {recording: resample(read_recording(recording)) for recording in recordings}
        utterances = []
        for index in range(self.strings[split]):
            string = draw_string(by_speaker, self.source, self.silence_seconds, (self.seed, split, index))
            name = f"{split}-{index:06d}"
            path = folder / f"{name}.wav"
            duration = write_wav(path, self._join(string, audio), self.sample_rate)
            text = " ".join(recording.word for recording in string.recordings)
            speaker = string.recordings[0].speaker
            utterances.append(Utterance(id=name, audio_filepath=path, duration=duration, text=text, speaker=speaker))
        return utterances

    def _join(self, string: DigitString, audio: Mapping[Recording, Tensor]) -> Tensor:
        silences = [torch.zeros(round(seconds * self.sample_rate)) for seconds in string.silence_seconds]
        pieces = [silences[0]]
        for recording, silence in zip(string.recordings, silences[1:], strict=True):
            pieces += [audio[recording], silence]
        return torch.cat(pieces)
