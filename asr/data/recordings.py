"""Recordings that hooks draw from: noises, impulse responses of rooms.

A manifest (``asr.data.manifest``) describes them, whose lines need no text. Headers are checked before training; the
samples are read in the loading process when a recording is drawn. Draws depend on the generator alone. Short recordings
are cached as far as memory allows; of long ones only the excerpt is read.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from asr.data.audio import Header, header_defect, num_samples, read_audio, sample_range
from asr.data.cache import SignalCache
from asr.data.manifest import ManifestError, Utterance, read_manifest
from asr.data.resampling import resampler
from asr.data.screening import read_headers
from distributed.errors import UsageError

LONG_SECONDS = 30.0  # of longer recordings only excerpts are read: some noises last for hours


class RecordingsError(UsageError):
    """Recordings that cannot be used; the message names the configuration key, the file and the remedy."""


class Recordings:
    """Recordings at one rate, with those of another rate resampled."""

    def __init__(
        self, utterances: Sequence[Utterance], headers: Sequence[Header], *, sample_rate: int, cache_gb: float
    ) -> None:
        """``headers`` belong to the utterances' files; ``cache_gb`` limits the cache of each loading process."""
        self.utterances = utterances
        self.headers = headers
        self.sample_rate = sample_rate
        self._cache = SignalCache(cache_gb)

    def __len__(self) -> int:
        return len(self.utterances)

    def draw(self, generator: torch.Generator) -> int:
        """Draw the index of a recording; all are equally likely."""
        return int(torch.randint(len(self), (), generator=generator))

    def whole(self, index: int) -> Tensor:
        """All samples of a recording, of shape (samples,); not to be written to."""
        kept = self._cache.get(index)
        if kept is None:
            kept = read_audio(self.utterances[index], self.sample_rate, resample=True)
            self._cache.put(index, kept)
        return kept

    def excerpt(self, index: int, length: int, generator: torch.Generator) -> Tensor:
        """``length`` samples from a random position of a recording, which is repeated where it is too short."""
        available = num_samples(self.utterances[index], self.headers[index], self.sample_rate)
        if available > max(length, LONG_SECONDS * self.sample_rate):
            return self._read_excerpt(index, length, generator)
        samples = self.whole(index)
        if available >= length:
            start = _uniform(available - length, generator)
            return samples[start : start + length]
        start = _uniform(available - 1, generator)
        return samples.roll(-start).repeat(-(-length // available))[:length]

    def _read_excerpt(self, index: int, length: int, generator: torch.Generator) -> Tensor:
        utterance, rate = self.utterances[index], self.headers[index].sample_rate
        first, end = sample_range(utterance, self.headers[index])
        needed = resampler(self.sample_rate, rate).length(length)
        start = first + _uniform(end - first - needed, generator)
        segment = replace(utterance, offset=start / rate, duration=needed / rate)
        return read_audio(segment, self.sample_rate, resample=True)[:length]


def _uniform(high: int, generator: torch.Generator) -> int:
    """A random integer, uniform from 0 to ``high``, both included."""
    return int(torch.randint(high + 1, (), generator=generator))


def read_recordings(manifest: Path, *, key: str, sample_rate: int, cache_gb: float) -> Recordings:
    """The recordings of a manifest, their headers checked; ``key`` is the configuration key that errors name.

    Raises:
        RecordingsError: the manifest cannot be read, or one of its recordings cannot be used.
    """
    try:
        utterances = read_manifest(manifest, text_needed=False)
    except ManifestError as error:
        raise RecordingsError(f"{key}: {error}") from None
    headers = read_headers({utterance.audio_filepath for utterance in utterances})
    usable: list[Header] = []
    for utterance in utterances:
        header = headers[utterance.audio_filepath]
        defect = header if isinstance(header, str) else header_defect(utterance, header, sample_rate, resample=True)
        if defect is not None or isinstance(header, str):
            raise RecordingsError(f"{key}: {manifest}: {utterance.audio_filepath}: {defect}")
        if num_samples(utterance, header, sample_rate) == 0:
            raise RecordingsError(f"{key}: {manifest}: {utterance.audio_filepath}: the segment has zero length")
        usable.append(header)
    return Recordings(utterances, usable, sample_rate=sample_rate, cache_gb=cache_gb)
