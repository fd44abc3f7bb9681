"""Recordings that hooks draw from: excerpts are what the file holds, and bad manifests are refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from asr.data.manifest import Utterance, write_manifest
from asr.data.recordings import LONG_SECONDS, Recordings, RecordingsError, read_recordings

Make = Callable[..., Utterance]


def read(folder: Path, *utterances: Utterance, sample_rate: int = 16000, cache_gb: float = 0.1) -> Recordings:
    write_manifest(folder / "noise.jsonl", utterances)
    return read_recordings(folder / "noise.jsonl", key="hooks.x.manifest", sample_rate=sample_rate, cache_gb=cache_gb)


def counting(samples: int) -> np.ndarray:
    return (np.arange(samples) % 30_000).astype(np.int16)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seconds", [0.5, LONG_SECONDS + 1])
def test_an_excerpt_is_a_piece_of_the_recording(tmp_path: Path, make_utterance: Make, seconds: float) -> None:
    """Of a short one, which is kept, and of a long one, of which no more is read; places differ."""
    samples = counting(round(seconds * 16000))
    recordings = read(tmp_path, make_utterance(samples=samples, duration=seconds))
    whole = torch.from_numpy(samples).float() / 32768
    starts = set()
    for seed in range(20):
        excerpt = recordings.excerpt(0, 800, generator(seed))
        start = int((whole.unfold(0, 800, 1)[:30_000] - excerpt).abs().amax(1).argmin())
        assert torch.equal(whole[start : start + 800], excerpt)
        starts.add(start)
    assert len(starts) > 15


def test_a_recording_that_is_too_short_begins_anew(tmp_path: Path, make_utterance: Make) -> None:
    recordings = read(tmp_path, make_utterance(samples=counting(1000), duration=1000 / 16000))
    excerpt = (recordings.excerpt(0, 3500, generator()) * 32768).round().int()
    assert len(excerpt) == 3500
    assert set((excerpt.diff() % 1000).tolist()) == {1}
    assert torch.equal(recordings.excerpt(0, 1000, generator()), recordings.whole(0))


@pytest.mark.parametrize("seconds", [0.5, LONG_SECONDS + 1])
@pytest.mark.parametrize("length", [100, 7777, round((LONG_SECONDS + 2) * 16000)])
def test_recordings_of_another_rate_are_resampled(
    tmp_path: Path, make_utterance: Make, seconds: float, length: int
) -> None:
    recordings = read(tmp_path, make_utterance(seconds=seconds, sample_rate=44100))
    assert len(recordings.whole(0)) == np.ceil(round(seconds * 44100) * 16000 / 44100)
    assert len(recordings.excerpt(0, length, generator())) == length


@pytest.mark.parametrize("length", [100, 8000, 9000])
def test_what_is_drawn_does_not_depend_on_what_is_kept(tmp_path: Path, make_utterance: Make, length: int) -> None:
    utterances = [make_utterance("a", 0.5), make_utterance("b", LONG_SECONDS + 1, sample_rate=8000)]
    keeping, reading = read(tmp_path, *utterances), read(tmp_path, *utterances, cache_gb=0.0)
    for index in (0, 1, 0, 1):
        assert torch.equal(keeping.excerpt(index, length, generator()), reading.excerpt(index, length, generator()))


def test_segments_of_a_file_are_recordings(tmp_path: Path, make_utterance: Make) -> None:
    recordings = read(tmp_path, make_utterance(samples=counting(16000), offset=0.25, duration=0.5))
    assert torch.equal(recordings.whole(0) * 32768, torch.arange(4000.0, 12000.0))
    excerpt = recordings.excerpt(0, 4000, generator()) * 32768
    assert 4000 <= excerpt[0] <= 8000


def test_a_line_needs_no_text(tmp_path: Path, make_utterance: Make) -> None:
    utterance = make_utterance()
    line = {"audio_filepath": str(utterance.audio_filepath), "duration": utterance.duration}
    (tmp_path / "noise.jsonl").write_text(json.dumps(line))
    assert len(read_recordings(tmp_path / "noise.jsonl", key="k", sample_rate=16000, cache_gb=0)) == 1


def test_refusals_name_key_manifest_file_and_remedy(tmp_path: Path, make_utterance: Make) -> None:
    stereo, missing = make_utterance(channels=2), Utterance("m", tmp_path / "m.wav", 1.0, "")
    for utterance, reason in ((stereo, "2 channels; make it mono"), (missing, "there is no such file")):
        with pytest.raises(RecordingsError, match=reason) as caught:
            read(tmp_path, utterance)
        assert str(caught.value).startswith(f"hooks.x.manifest: {tmp_path / 'noise.jsonl'}: {utterance.audio_filepath}")
        assert "\n" not in str(caught.value)
    (tmp_path / "noise.jsonl").write_text('{"duration": 1.0}\n')
    with pytest.raises(RecordingsError, match="no audio_filepath; every line needs audio_filepath and duration"):
        read_recordings(tmp_path / "noise.jsonl", key="k", sample_rate=16000, cache_gb=0)
