"""Audio that no manifest describes: files named or found in folders, waveforms in memory, of any rate.

Channels are averaged and other rates resampled; both are logged. Audio that cannot be used is returned in
``Batch.refused`` with the reason; the rest of its unit is not held up. What is too long to be in memory whole is read by
``asr.data.audio_streams``.

T feature frames   F feature dimension
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from asr.data.audio import BadUtterance, audio_suffixes, read_header, sample_defect
from asr.data.audio_streams import FFMPEG_SUFFIXES, ffmpeg
from asr.data.batch import Batch, RawBatch, Unit
from asr.data.features import LogMel
from asr.data.pipeline import collate
from asr.data.plan import Budgets, chunk
from asr.data.resampling import rate_defect, resampler
from distributed.errors import UsageError

UNITS_SORTED = 8  # together by length: enough to pad little, few enough for the first results to come soon

log = logging.getLogger(__name__)


def find_audio(paths: Iterable[Path]) -> tuple[list[Path], list[BadUtterance]]:
    """The named files, and all audio files below the named folders (sorted); each file once, in the order named.

    The second result lists the folders that give no file: those without audio and those that cannot be read.
    """
    found: dict[Path, None] = {}
    suffixes = audio_suffixes() | (FFMPEG_SUFFIXES if ffmpeg() else frozenset())
    bad: list[BadUtterance] = []
    for path in paths:
        if not path.is_dir():
            found[path] = None
            continue
        errors: list[OSError] = []
        names = (Path(top) / name for top, _, names in os.walk(path, onerror=errors.append) for name in names)
        below = sorted(each for each in names if each.suffix.lower() in suffixes)
        found |= dict.fromkeys(below)
        for error in errors:
            folder = Path(error.filename)
            bad.append(BadUtterance(str(folder), folder, f"the folder cannot be read ({error.strerror})"))
        if not below and not errors:
            bad.append(BadUtterance(str(path), path, "no audio file lies in this folder or below"))
    return list(found), bad


@dataclass(frozen=True, slots=True)
class Waveform:
    """Samples in memory, (N,) float32 with full scale at 1, at ``rate`` Hz."""

    samples: Tensor
    rate: int
    name: str


class AudioFiles:
    """Loads units of audio files and waveforms; an utterance's id is the place of its source among ``sources``."""

    def __init__(self, sources: Sequence[Path | Waveform], features: LogMel) -> None:
        self.sources = sources
        self.features = features
        self.seconds: dict[int, float] = {}  # duration of each source loaded so far

    def units(self, budgets: Budgets) -> Iterator[Unit]:
        """Units in the order of the sources, sorted by length within short stretches, whose headers are read together."""
        count = 0
        for start in range(0, len(self.sources), UNITS_SORTED * budgets.utterances):
            near = range(start, min(start + UNITS_SORTED * budgets.utterances, len(self.sources)))
            frames = {index: self._frames(self.sources[index]) for index in near}
            order = sorted(near, key=frames.__getitem__)
            lengths = [frames[index] for index in order]
            # The batch has no targets, so there is no lattice whose size would have to be bounded.
            for members in chunk(range(len(order)), lengths, lengths, [0] * len(order), budgets):
                yield Unit(0, count, 0, tuple(order[member] for member in members))
                count += 1

    def _frames(self, source: Path | Waveform) -> int:
        """Number of frames of the model's input, computed from the header; 0 for a file that will be refused."""
        if isinstance(source, Waveform):
            count, rate = len(source.samples), source.rate
        else:
            try:
                header = read_header(source)
            except UsageError:
                return 0
            count, rate = header.num_samples, header.sample_rate
        return self.features.frames_of(resampler(rate, self.features.sample_rate).length(count))

    def __getitem__(self, unit: Unit) -> Batch:
        """The padded batch of a unit, without targets; B = 0 if none of its sources can be used."""
        raw = RawBatch(0, unit.epoch, [], [], [], [])
        total = 0.0
        for index in unit.utterances:
            try:
                waveform = self._read(index)
            except BadUtterance as bad:
                raw.refused.append(BadUtterance(str(index), bad.file, bad.reason))
                continue
            self.seconds[index] = len(waveform) / self.features.sample_rate
            total += self.seconds[index]
            raw.utterance_ids.append(str(index))
            raw.signals.append(self.features.model_input(waveform))
            raw.targets.append([])
            raw.predictor_inputs.append([])
        return collate(raw, self.features.dimension, unit.name, total)

    def _read(self, index: int) -> Tensor:
        source = self.sources[index]
        name = source.name if isinstance(source, Waveform) else str(source)
        if isinstance(source, Waveform):
            defect = rate_defect(source.rate, self.features.sample_rate) or sample_defect(source.samples.numpy())
            if defect:
                raise BadUtterance(str(index), Path(name), defect)
            waveform = resampler(source.rate, self.features.sample_rate)(source.samples)
        else:
            waveform = read_any(source, self.features.sample_rate)
        if self.features.frames_of(len(waveform)) == 0:
            seconds = len(waveform) / self.features.sample_rate
            raise BadUtterance(str(index), Path(name), f"{seconds:.3f} s is too short for one frame")
        return waveform


def read_any(file: Path, sample_rate: int) -> Tensor:
    """(samples,) at ``sample_rate``, full scale at 1: channels are averaged, other rates resampled.

    Raises:
        BadUtterance: there is no such file, or it is not audio, or breaks off, or has samples that are not finite.
    """

    def bad(reason: str) -> BadUtterance:
        return BadUtterance(str(file), file, reason)

    if not os.path.isfile(file):  # False too where its folder may not be entered
        raise bad("there is no such file, or none that can be reached")
    try:
        header = read_header(file)
        if defect := rate_defect(header.sample_rate, sample_rate):
            raise bad(defect)
        samples, rate = soundfile.read(str(file), dtype="float32", always_2d=True)
    except UsageError as error:
        raise bad(str(error)) from None
    except soundfile.SoundFileError as error:
        raise bad(f"breaks off while it is read ({error}); write the file anew") from None
    if len(samples) < header.num_samples:
        raise bad(
            f"breaks off after {len(samples) / rate:.3f} of {header.num_samples / rate:.3f} s; write the file anew"
        )
    if defect := sample_defect(samples):
        raise bad(defect)
    if samples.shape[1] > 1:
        log.info("%s: averaging its %d channels", file, samples.shape[1])
    waveform = torch.from_numpy(samples.mean(axis=1))
    if rate != sample_rate:
        log.info("%s: resampling from %d to %d Hz", file, rate, sample_rate)
        waveform = resampler(rate, sample_rate)(waveform)
    return waveform
