"""Recordings that are read piece by piece: long files, what ffmpeg decodes, raw PCM from a pipe.

Channels are averaged; a block is checked when it is read, so that errors come while blocks are taken.
"""

import logging
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
import soundfile

from asr.data.audio import BadUtterance, sample_defect
from asr.data.features import INT16_SCALE
from asr.data.windows import Samples

BLOCK_SECONDS = 5
# Names that ffmpeg has for the containers that it may open: none of them names other files, as playlists do.
FFMPEG_CONTAINERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,avi,caf,dts,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,w64,wav,wv"
)
FFMPEG_SUFFIXES = frozenset((".aac", ".amr", ".m4a", ".m4b", ".mka", ".mkv", ".mov", ".mp4", ".webm", ".wma"))

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stream:
    """A recording as mono blocks at ``rate`` Hz, full scale at 1; taking one may raise BadUtterance."""

    rate: int
    blocks: Iterator[Samples]


@dataclass(frozen=True, slots=True)
class Pcm:
    """Raw 16-bit little-endian mono samples, without a header, as ``-`` on a command line."""

    file: BinaryIO
    rate: int  # Hz
    name: str = "-"


def stream_of_file(path: Path) -> Stream:
    """A file that libsndfile reads.

    Raises:
        BadUtterance: it cannot be opened.
    """
    try:
        file = soundfile.SoundFile(str(path))
    except (soundfile.SoundFileError, OSError) as error:
        raise _bad(path, f"cannot be read as audio ({error})") from None
    if file.channels > 1:
        log.info("%s: averaging its %d channels", path, file.channels)
    return Stream(file.samplerate, _file_blocks(path, file))


def _file_blocks(path: Path, file: soundfile.SoundFile) -> Iterator[Samples]:
    read = 0
    with file:
        while read < file.frames:
            try:
                samples = file.read(BLOCK_SECONDS * file.samplerate, dtype="float32", always_2d=True)
            except soundfile.SoundFileError as error:
                raise _bad(path, f"breaks off while it is read ({error}); write the file anew") from None
            if not len(samples):
                seconds, expected = read / file.samplerate, file.frames / file.samplerate
                raise _bad(path, f"breaks off after {seconds:.3f} of {expected:.3f} s; write the file anew")
            yield checked(path, samples.mean(axis=1).astype(np.float32), read)
            read += len(samples)


def stream_of_pcm(pcm: Pcm, seconds: float = BLOCK_SECONDS) -> Stream:
    """Raw samples until the pipe ends, in blocks of ``seconds``; half a sample at its end is dropped."""
    return Stream(pcm.rate, _int16_blocks(pcm, max(1, round(seconds * pcm.rate))))


def _int16_blocks(pcm: Pcm, samples_together: int) -> Iterator[Samples]:
    while data := _read_fully(pcm.file, 2 * samples_together):
        if len(data) % 2:
            log.warning("%s: ends within a sample, which is dropped; is it 16-bit PCM?", pcm.name)
        samples = np.frombuffer(data[: len(data) // 2 * 2], dtype="<i2")
        yield samples.astype(np.float32) / np.float32(INT16_SCALE)


def _read_fully(file: IO[bytes], size: int) -> bytes:
    """Up to ``size`` bytes; fewer only at the end, whatever a pipe delivers at a time."""
    parts, missing = [], size
    while missing and (part := file.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


@cache
def ffmpeg() -> str | None:
    """The path of ffmpeg; None where it is not installed."""
    return shutil.which("ffmpeg")


def stream_of_ffmpeg(program: str, path: Path, rate: int) -> Stream:
    """The first sound track of a file, decoded, mixed to mono and resampled by ffmpeg. It reads this local file only."""
    command = [
        program, "-nostdin", "-v", "error", "-xerror",
        "-protocol_whitelist", "file", "-format_whitelist", FFMPEG_CONTAINERS, "-i", f"file:{path}",
        "-map", "0:a:0", "-f", "f32le", "-ac", "1", "-ar", str(rate), "pipe:1",
    ]  # fmt: skip
    return Stream(rate, _ffmpeg_blocks(command, path, rate))


def _ffmpeg_blocks(command: list[str], path: Path, rate: int) -> Iterator[Samples]:
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
        except OSError as error:
            raise _bad(path, f"ffmpeg cannot be started ({error.strerror})") from None
        assert process.stdout is not None
        try:
            read = 0
            while data := _read_fully(process.stdout, BLOCK_SECONDS * rate * 4):
                samples = np.frombuffer(data[: len(data) // 4 * 4], dtype="<f4").astype(np.float32)
                yield checked(path, samples, read)
                read += len(samples)
            code = process.wait()
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            process.stdout.close()
            process.wait()
        errors.seek(0)
        lines = errors.read(1 << 16).decode("utf-8", "replace").strip().splitlines()
        if code != 0 or lines:  # it may pass over what is damaged, and end with 0
            what = "breaks off or is damaged" if read else "cannot be read as audio"
            raise _bad(path, f"{what} (ffmpeg: {lines[-1] if lines else f'exit code {code}'})")


def checked(path: Path, samples: Samples, read: int) -> Samples:
    """A block that begins with sample number ``read``, as it is; BadUtterance where its samples cannot be used."""
    if defect := sample_defect(samples):
        raise _bad(path, f"within the samples from number {read} on, {defect}")
    return samples


def _bad(path: Path, reason: str) -> BadUtterance:
    return BadUtterance(str(path), path, reason)
