"""A table of good and bad recordings, and what becomes of each when it is transcribed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 8000


def speech(seconds: float, rate: int = RATE, seed: int = 0) -> Any:
    """Chords that change four times a second, as those of the tiny corpus."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = 300 * (1 + rng.integers(4, size=1 + len(time) // (rate // 4)))[(4 * time).astype(int)]
    noise = 0.01 * rng.standard_normal(len(time))
    return (0.3 * np.sin(2 * np.pi * pitch * time) + noise).astype(np.float32)


@dataclass(frozen=True)
class Row:
    """A recording and what becomes of it."""

    name: str
    write: Callable[[Path], object]
    error: str | None = None  # part of the reason; None: it is transcribed
    heard: float = 0.0  # seconds that are transcribed all the same


def torn(path: Path) -> None:
    soundfile.write(path, speech(3), RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def endless(path: Path) -> None:
    """FLAC whose header says 0 samples, which stands for an unknown number."""
    soundfile.write(path, speech(0.8), RATE)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(data)


def torn_mp3(path: Path) -> None:
    soundfile.write(path, speech(3, 16000), 16000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


TABLE = (
    Row("plain.wav", lambda path: soundfile.write(path, speech(0.7), RATE)),
    Row("stereo.flac", lambda path: soundfile.write(path, np.stack([speech(0.9), speech(0.9)], 1), RATE)),
    Row("fast.wav", lambda path: soundfile.write(path, speech(0.8, 44100), 44100)),
    Row("eight.wav", lambda path: soundfile.write(path, speech(0.5), RATE, subtype="PCM_U8")),
    Row("vorbis.ogg", lambda path: soundfile.write(path, speech(1.1), RATE)),
    Row("silence.wav", lambda path: soundfile.write(path, np.zeros(RATE), RATE)),
    Row("a = b\nc.wav", lambda path: soundfile.write(path, speech(0.6), RATE)),
    Row("long.wav", lambda path: soundfile.write(path, speech(9), RATE)),
    Row("text.wav", lambda path: path.write_text("not audio"), "cannot be read as audio"),
    Row("empty.wav", lambda path: path.touch(), "0 bytes"),
    Row("short.wav", lambda path: soundfile.write(path, speech(0.01), RATE), "too short for one frame"),
    Row("none.wav", lambda path: None, "no such file"),
    Row("nothing.wav", lambda path: soundfile.write(path, np.zeros(0), RATE), "too short"),
    Row("torn.flac", torn, "breaks off"),
    Row("endless.flac", endless, "does not say how long it is"),
    Row("torn.mp3", torn_mp3, "breaks off after"),
    Row("odd.wav", lambda path: soundfile.write(path, speech(0.5), 4001), "is sampled at 4001 Hz, an odd rate"),
    Row("odder.wav", lambda path: soundfile.write(path, speech(0.5), 2_000_000_011), "is sampled at 2000000011 Hz"),
    Row("odd-long.wav", lambda path: soundfile.write(path, speech(9), 4001), "is sampled at 4001 Hz, an odd rate"),
    Row(
        "nan.wav",
        lambda path: soundfile.write(path, np.full(4000, np.nan, dtype=np.float32), RATE, subtype="FLOAT"),
        "not a number to compute with",
    ),
    Row(
        "late-nan.wav",
        lambda path: soundfile.write(
            path, np.append(speech(9), np.float32(np.inf)), RATE, subtype="FLOAT"
        ),
        "not a number to compute with", heard=5,
    ),
)  # fmt: skip
