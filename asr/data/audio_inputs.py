"""What a caller may give to be transcribed: files, samples in memory, raw PCM from a pipe."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr.data.audio import BadUtterance, read_header
from asr.data.audio_files import Waveform
from asr.data.audio_streams import (
    INT16_FULL_SCALE,
    Pcm,
    Stream,
    ffmpeg,
    stream_of_ffmpeg,
    stream_of_file,
    stream_of_pcm,
)
from distributed.errors import UsageError

Audio = str | Path | NDArray[np.generic] | Tensor | Waveform | Pcm
"""A file's path; samples (N,) at the model's rate, floating point with full scale at 1 or int16; samples that name their
rate; raw PCM from a pipe."""

Source = Path | Waveform | Pcm


def source_of(audio: Audio, place: int, rate: int) -> Source:
    """What was given as number ``place``, as a path, float32 samples (at ``rate`` where they name none) or a pipe.

    Raises:
        BadUtterance: an array of another shape or type.
    """
    if isinstance(audio, (Waveform, Pcm)):
        return audio
    if isinstance(audio, (str, Path)):
        return Path(audio)
    name = f"array {place}"
    samples = torch.as_tensor(audio).detach().cpu()
    if samples.ndim != 1:
        raise BadUtterance(name, Path(name), f"has the shape {tuple(samples.shape)}; give mono samples, (N,)")
    if samples.dtype == torch.int16:
        samples = samples.float() / INT16_FULL_SCALE
    elif not samples.is_floating_point():
        raise BadUtterance(
            name, Path(name), f"has samples of type {samples.dtype}; give int16, or floating point with full scale at 1"
        )
    return Waveform(samples.float(), rate, name)


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
        return (lambda: Stream(source.rate, iter([source.samples.numpy()]))) if too_long else None
    try:
        header = read_header(source)
    except UsageError:
        program = ffmpeg() if os.path.isfile(source) and os.path.getsize(source) else None
        return None if program is None else lambda: stream_of_ffmpeg(program, source, rate)
    too_long = header.num_samples > longest_seconds * header.sample_rate
    return (lambda: stream_of_file(source)) if too_long else None
