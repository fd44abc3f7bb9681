"""What a caller may give to be transcribed: files, samples in memory, raw PCM from a pipe."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr.data.audio import BadUtterance, read_header
from asr.data.audio_files import Waveform
from asr.data.audio_streams import (
    BLOCK_SECONDS,
    Pcm,
    Stream,
    checked,
    ffmpeg,
    stream_of_ffmpeg,
    stream_of_file,
    stream_of_pcm,
)
from asr.data.features import INT16_SCALE
from asr.data.windows import Samples
from distributed.errors import UsageError

Audio = str | Path | NDArray[np.generic] | Tensor | Waveform | Pcm
"""A file's path; samples (N,) at the model's rate, floating point with full scale at 1 or int16; samples that name their
rate; raw PCM from a pipe."""

Source = Path | Waveform | Pcm


def source_of(audio: Audio, place: int, rate: int) -> Source:
    """What was given as number ``place``, as a path, float32 samples (at ``rate`` where they name none) or a pipe.

    Raises:
        BadUtterance: an array of another shape or type, or something else.
    """
    if isinstance(audio, Pcm):
        return audio
    if isinstance(audio, Waveform):
        if not (isinstance(audio.rate, (int, np.integer)) and audio.rate >= 1):
            raise BadUtterance(
                audio.name, Path(audio.name), f"has the rate {audio.rate!r}; give a whole number of Hz above 0"
            )
        return Waveform(mono_samples(audio.samples, audio.name), int(audio.rate), audio.name)
    if isinstance(audio, (str, Path)):
        return Path(audio)
    name = f"array {place}"
    return Waveform(mono_samples(audio, name), rate, name)


def mono_samples(audio: object, name: str) -> Tensor:
    """Samples (N,) float32 with full scale at 1 on the CPU, of an array or tensor of any byte order and strides."""

    def bad(reason: str) -> BadUtterance:
        return BadUtterance(name, Path(name), reason)

    if not isinstance(audio, (np.ndarray, Tensor)):
        raise bad(f"is of type {type(audio).__name__}; give a path, an array or a tensor")
    if audio.ndim != 1:
        raise bad(f"has the shape {tuple(audio.shape)}; give mono samples, (N,)")
    if isinstance(audio, Tensor):
        usable, whole = audio.is_floating_point(), audio.dtype == torch.int16
    else:
        usable, whole = audio.dtype.kind == "f", audio.dtype.newbyteorder("=") == np.int16
    if not (usable or whole):
        raise bad(f"has samples of type {audio.dtype}; give int16, or floating point with full scale at 1")
    if isinstance(audio, Tensor):
        samples = audio.detach().cpu().float()
    else:
        with np.errstate(over="ignore"):  # what becomes infinite is refused with the other samples
            samples = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
    return samples / INT16_SCALE if whole else samples


def name_of(source: Source) -> str:
    """What results call a source."""
    return str(source) if isinstance(source, Path) else source.name


def stream_of(source: Source, longest_seconds: float, rate: int) -> Callable[[], Stream] | None:
    """How to read a source piece by piece; None for one that is read whole, or refused while it is.

    Pipes, what is longer than ``longest_seconds``, and files that ffmpeg may know and libsndfile does not, are streams.
    ffmpeg resamples to ``rate`` itself.
    """
    if isinstance(source, Pcm):
        return lambda: stream_of_pcm(source)
    if isinstance(source, Waveform):
        too_long = len(source.samples) > longest_seconds * source.rate
        return (lambda: Stream(source.rate, _blocks(source))) if too_long else None
    try:
        header = read_header(source)
    except UsageError:
        program = ffmpeg() if os.path.isfile(source) and os.path.getsize(source) else None
        return None if program is None else lambda: stream_of_ffmpeg(program, source, rate)
    too_long = header.num_samples > longest_seconds * header.sample_rate
    return (lambda: stream_of_file(source)) if too_long else None


def live_stream_of(source: Source, seconds: float, rate: int) -> Stream:
    """A source in pieces of about ``seconds``, however short it is.

    Raises:
        BadUtterance: it cannot be read, or holds nothing.
    """
    if isinstance(source, Pcm):
        return stream_of_pcm(source, seconds)
    opened = stream_of(source, 0.0, rate)
    if opened is None:
        name = name_of(source)
        raise BadUtterance(name, Path(name), _defect(source))
    stream = opened()
    size = max(1, round(seconds * stream.rate))
    pieces = (block[start : start + size] for block in stream.blocks for start in range(0, len(block), size))
    return Stream(stream.rate, pieces)


def _defect(source: Path | Waveform) -> str:
    """Why a source is no stream."""
    if isinstance(source, Path):
        try:
            read_header(source)
        except UsageError as error:
            return str(error)
    return "the audio has zero length"


def _blocks(source: Waveform) -> Iterator[Samples]:
    size = BLOCK_SECONDS * source.rate
    for start in range(0, len(source.samples), size):
        yield checked(Path(source.name), source.samples[start : start + size].numpy(), start)
