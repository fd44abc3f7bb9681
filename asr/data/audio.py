"""Reading audio: one utterance's samples, or a refusal that says which file is wrong, how, and what to do.

Audio is converted only on request: a file of another rate is resampled under ``resample`` (the key data.resample) and
refused otherwise; files with several channels or with samples that are NaN or infinite are refused, not mixed or
repaired. ``header_defect`` checks all properties in the header, also in the screening before training; the samples
themselves are checked when they are read.
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr.data.manifest import Utterance
from asr.data.resampling import rate_defect, resampler
from distributed.errors import UsageError, UserError

# A manifest's duration may differ from the file's by the larger of the two: manifests round, and MP3 pads.
LARGEST_SAMPLE = 1e15  # its square, times that of a frame's length, is still a number in single precision
UNKNOWN_SAMPLES = (1 << 63) - 1
TOLERANCE_SECONDS = 0.05
TOLERANCE_FRACTION = 0.01


# Endings of files beside the name of their format, which libsndfile tells: wav, flac, mp3, ...
OTHER_ENDINGS = {
    "AIFF": ("aif", "aifc"),
    "AU": ("snd",),
    "IRCAM": ("sf",),
    "MP3": ("mp2",),
    "NIST": ("sph",),
    "OGG": ("oga", "opus"),
    "WAV": ("wave",),
}


@cache
def audio_suffixes() -> frozenset[str]:
    """Suffixes of the files that this machine's libsndfile reads, in lower case, with the dot."""
    formats = soundfile.available_formats().keys() - {"RAW"}  # without a header nothing tells the rate
    return frozenset(f".{end}" for each in formats for end in (each.lower(), *OTHER_ENDINGS.get(each, ())))


class BadUtterance(UserError, ValueError):  # noqa: N818 - named for what it is about, like KeyError's missing key
    """An utterance that cannot be used: which one, in which file, and why (with the remedy)."""

    def __init__(self, utterance_id: str, file: Path, reason: str) -> None:
        super().__init__(utterance_id, file, reason)  # all three, so that it travels between processes
        self.utterance_id, self.file, self.reason = utterance_id, file, reason

    def __str__(self) -> str:
        return f"{self.file}: {self.reason} (utterance {self.utterance_id})"


@dataclass(frozen=True, slots=True)
class Header:
    """The properties that an audio file's header states."""

    num_samples: int
    sample_rate: int
    num_channels: int


def read_header(file: Path) -> Header:
    """Read the header of an audio file.

    Raises:
        ValueError: the file is missing, out of reach, empty or not audio; the message says which and the remedy.
    """
    try:
        num_bytes = file.stat().st_size if file.is_file() else None
    except OSError as error:  # a folder that may not be entered, a name that is too long
        raise UsageError(f"cannot be reached ({error.strerror}); correct audio_filepath or permissions") from None
    if num_bytes is None:
        raise UsageError("there is no such file; correct audio_filepath or data.root")
    if num_bytes == 0:
        raise UsageError("the file is empty (0 bytes); write it anew or remove the utterance")
    try:
        info = soundfile.info(str(file))
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: *.raw has no header to read
        raise UsageError(f"cannot be read as audio ({error}); convert it to WAV or FLAC") from None
    if info.frames >= UNKNOWN_SAMPLES:  # libsndfile's answer for a FLAC file that was written to a pipe
        raise UsageError("its header does not say how long it is; write it anew (sox in.flac out.flac)")
    return Header(info.frames, info.samplerate, info.channels)


def header_defect(utterance: Utterance, header: Header, sample_rate: int, *, resample: bool) -> str | None:
    """The reason why the utterance is unusable, as far as its file's header tells; None if it is usable."""
    if header.num_samples == 0:
        return "the audio has zero length; remove the utterance"
    if header.sample_rate != sample_rate and not resample:
        return (
            f"is sampled at {header.sample_rate} Hz, but data.sample_rate is {sample_rate} Hz; "
            f"set data.resample=true to resample such files, or data.sample_rate={header.sample_rate} if all are like it"
        )
    if defect := rate_defect(header.sample_rate, sample_rate):
        return defect
    return _channel_defect(utterance.channel, header.num_channels) or _duration_defect(
        utterance, header.num_samples / header.sample_rate
    )


def _channel_defect(channel: int | None, num_channels: int) -> str | None:
    if channel is None and num_channels != 1:
        return (
            f"has {num_channels} channels; make it mono (sox in.wav out.wav remix -), "
            'or choose one: "channel" in a manifest, counted from 0; docs/data.md tells of other tables'
        )
    if channel is not None and channel >= num_channels:
        return f"has {num_channels} channel(s), but channel {channel} is asked for, counted from 0; correct its number"
    return None


def _duration_defect(utterance: Utterance, file_seconds: float) -> str | None:
    """The reason why the manifest's times disagree with ``file_seconds``; a segment may be shorter than its file."""
    claimed, offset = utterance.duration, utterance.offset
    if not (math.isfinite(claimed) and claimed > 0):
        return f"the manifest says it lasts {claimed:g} s; a duration must be above 0"
    if not (math.isfinite(offset or 0.0) and (offset or 0.0) >= 0):
        return f"the manifest's offset is {offset:g} s; an offset must be at least 0"
    tolerance = max(TOLERANCE_SECONDS, TOLERANCE_FRACTION * claimed)
    if offset is None and abs(file_seconds - claimed) > tolerance:
        return f"lasts {file_seconds:.3f} s, but its manifest says {claimed:.3f} s; correct the manifest's duration"
    if offset is not None and offset + claimed - file_seconds > tolerance:
        return (
            f"lasts {file_seconds:.3f} s, but the utterance is said to go from {offset:.3f} s to {offset + claimed:.3f} s; "
            "correct these times"
        )
    return None


def sample_range(utterance: Utterance, header: Header) -> tuple[int, int]:
    """First sample and end (exclusive) of the utterance in its file."""
    if utterance.offset is None:
        return 0, header.num_samples
    start = round(utterance.offset * header.sample_rate)
    end = start + round(utterance.duration * header.sample_rate)
    return start, min(end, header.num_samples)


def num_samples(utterance: Utterance, header: Header, sample_rate: int) -> int:
    """Number of samples that ``read_audio`` returns at ``sample_rate``; 0 if the utterance lies beyond its file."""
    start, end = sample_range(utterance, header)
    return resampler(header.sample_rate, sample_rate).length(max(0, end - start))


def read_audio(utterance: Utterance, sample_rate: int, *, resample: bool) -> Tensor:
    """Read the utterance's waveform.

    Args:
        sample_rate: rate of the returned samples in Hz.
        resample: whether the file may have another rate.

    Returns:
        (samples,) float32, full scale at 1.

    Raises:
        BadUtterance: the file is missing, unreadable, empty, of another rate, without the channel or with several to
            choose from, shorter or longer than the manifest says, or has samples that are not finite.
    """

    def bad(reason: str) -> BadUtterance:
        return BadUtterance(utterance.id, utterance.audio_filepath, reason)

    try:
        header = read_header(utterance.audio_filepath)
    except ValueError as error:
        raise bad(str(error)) from None
    if defect := header_defect(utterance, header, sample_rate, resample=resample):
        raise bad(defect)
    start, end = sample_range(utterance, header)
    try:
        samples, _ = soundfile.read(
            str(utterance.audio_filepath), start=start, stop=end, dtype="float32", always_2d=True
        )
    except soundfile.SoundFileError as error:
        raise bad(f"breaks off while it is read ({error}); write the file anew") from None
    samples = np.ascontiguousarray(samples[:, utterance.channel or 0])
    if len(samples) < end - start:
        seconds, expected = len(samples) / header.sample_rate, (end - start) / header.sample_rate
        raise bad(f"breaks off after {seconds:.3f} of {expected:.3f} s; write the file anew")
    if len(samples) == 0:
        raise bad("the segment has zero length; correct the manifest's offset and duration")
    if defect := sample_defect(samples):
        raise bad(defect)
    return resampler(header.sample_rate, sample_rate)(torch.from_numpy(samples))


def sample_defect(samples: NDArray[np.float32]) -> str | None:
    """Why samples, (N,) or (N, channels) with full scale at 1, cannot become features; None if they can."""
    if not np.isfinite(samples).all():
        place = tuple(np.argwhere(~np.isfinite(samples))[0])
        return f"sample {place[0]} is {samples[place]}, not a number to compute with; write the file anew"
    largest = float(np.abs(samples).max(initial=0.0))
    if largest > LARGEST_SAMPLE:
        return (
            f"holds a sample of {largest:.3g}, whose power features cannot hold (full scale is 1, and {LARGEST_SAMPLE:g} the "
            "most that is read); write the file anew"
        )
    return None
