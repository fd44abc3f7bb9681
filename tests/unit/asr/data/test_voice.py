"""Cutting where nobody speaks: all speech is in a piece, silence is in none, and no piece is longer than a window."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.data import voice
from asr.data.audio import BadUtterance
from asr.data.voice import voice_detector, voiced_windows
from asr.data.windows import Samples, Window, Windows
from asr.decoding.greedy import Greedy
from asr.recogniser import load
from distributed.errors import UsageError
from tests.unit.asr.recordings import speech

RATE = 8000
SIZES = Windows(4.0, 1.0)


def recording(stretches: list[tuple[float, float]]) -> np.ndarray:
    """Stretches of silence and of sound, seconds of each; a sample of sound is never 0."""
    parts = []
    for silence, sound in stretches:
        parts += [np.zeros(round(silence * RATE)), 0.5 + 0.1 * np.sin(np.arange(round(sound * RATE)))]
    return np.concatenate([*parts, np.zeros(RATE)]).astype(np.float32)


def cut(samples: np.ndarray, block: int) -> list[Window]:
    return list(voiced_windows((samples[i : i + block] for i in range(0, len(samples), block)), RATE, RATE, SIZES))


@settings(max_examples=40)
@given(
    stretches=st.lists(st.tuples(st.floats(0, 2), st.floats(0.3, 6)), min_size=1, max_size=4),
    block=st.sampled_from([50, 1000, 40_000]),
)
def test_all_sound_is_in_a_piece(stretches: list[tuple[float, float]], block: int) -> None:
    samples = recording(stretches)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(voice, "voice_detector", lambda rate: lambda frame: bool(frame.abs().max() > 0.1))
        pieces = cut(samples, block)
    covered = np.zeros(len(samples), dtype=bool)
    before = 0
    for piece in pieces:
        start = round(piece.start * RATE)
        end = start + len(piece.waveform)
        assert np.array_equal(samples[start:end], piece.waveform.numpy())
        assert 0 < end - start <= 4 * RATE
        assert start == before - RATE if piece.continues else start >= before
        covered[start:end], before = True, end
    assert covered[samples != 0].all()
    silent = sum(max(silence - 1.0, 0) for silence, _ in stretches)
    assert (~covered).sum() >= (silent - 0.1 * len(stretches)) * RATE, "long silences are left out"


def test_the_detector_hears_sound_and_not_silence() -> None:
    pytest.importorskip("webrtcvad")
    silence = np.zeros(2 * 16000, dtype=np.float32)
    samples = np.concatenate([silence, speech(3, 16000), silence, speech(2, 16000, seed=1), silence])
    pieces = list(voiced_windows([samples], 16000, RATE, Windows(30.0, 6.0)))
    assert [round(each.start) for each in pieces] == [2, 7]
    assert [len(each.waveform) / RATE for each in pieces] == pytest.approx([3, 2], abs=0.8)
    assert not any(each.continues for each in pieces)
    assert not list(voiced_windows([silence], 16000, RATE, SIZES))


def test_what_came_before_a_break_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice, "voice_detector", lambda rate: lambda frame: True)

    def blocks() -> Iterator[Samples]:
        yield np.ones(RATE, dtype=np.float32)
        raise BadUtterance("a", SIZES, "breaks off")

    found = voiced_windows(blocks(), RATE, RATE, SIZES)
    assert len(next(found).waveform) > 0.9 * RATE
    with pytest.raises(BadUtterance, match="breaks off"):
        next(found)


def test_rates_and_a_missing_detector_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"^segments=vad: the detector hears 8000, .* and this model 11025 Hz; choose"):
        voice_detector(11025)
    monkeypatch.setitem(sys.modules, "webrtcvad", None)
    with pytest.raises(
        UsageError, match=r"^segments=vad: webrtcvad is not installed; install it: pip install -e '.\[vad\]'"
    ):
        voice_detector(8000)


def test_a_long_recording_is_decoded_piece_by_piece(
    random_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = lambda rate: lambda frame: bool(frame.abs().max() > 0.1)  # noqa: E731
    monkeypatch.setattr(voice, "voice_detector", detector)
    monkeypatch.setattr("asr.recogniser.voice_detector", detector)
    decode: Any = Greedy(max_symbols=2)
    model = load(random_run("run"), decode=decode, window_seconds=4, overlap_seconds=1, segments="vad")
    silence = np.zeros(2 * RATE, dtype=np.float32)
    samples = np.concatenate([silence, speech(1), silence, speech(1, seed=1), silence])
    (found,) = model.transcribe(samples)
    assert (found.error, found.seconds) == (None, 8.0)
    pieces = list(voiced_windows([samples], RATE, RATE, SIZES))
    assert len(pieces) == 2
    alone = model.transcribe([piece.waveform for piece in pieces])
    expected = [
        replace(word, start=piece.start + word.start, end=piece.start + word.end)
        for piece, each in zip(pieces, alone, strict=True)
        for word in each.words
    ]
    assert [word.text for word in found.words] == [word.text for word in expected]
    assert [word.start for word in found.words] == pytest.approx([word.start for word in expected])
    assert found.text == " ".join(word.text for word in expected) != ""
    (nothing,) = model.transcribe(np.zeros(5 * RATE, dtype=np.float32))
    assert (nothing.error, nothing.text, nothing.words, nothing.seconds) == (None, "", [], 5.0)
