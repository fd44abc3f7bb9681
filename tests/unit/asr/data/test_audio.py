"""Reading audio: the samples are exact, and every defect is refused with file, reason and remedy."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from asr.data.audio import BadUtterance, audio_suffixes, num_samples, read_audio, read_header
from asr.data.manifest import Utterance

Make = Callable[..., Utterance]


def refusal(utterance: Utterance, sample_rate: int = 16000) -> str:
    with pytest.raises(BadUtterance) as caught:
        read_audio(utterance, sample_rate, resample=False)
    assert str(utterance.audio_filepath) in str(caught.value)
    assert utterance.id in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_samples_are_exact(make_utterance: Make, suffix: str) -> None:
    samples = np.arange(-8000, 8000, dtype=np.int16)
    waveform = read_audio(make_utterance(suffix=suffix, samples=samples, duration=1.0), 16000, resample=False)
    assert waveform.dtype == torch.float32
    assert torch.equal(waveform * 32768, torch.arange(-8000.0, 8000.0))


def test_a_segment_is_exact(make_utterance: Make) -> None:
    samples = np.arange(16000, dtype=np.int16)
    waveform = read_audio(make_utterance(samples=samples, offset=0.25, duration=0.5), 16000, resample=False)
    assert torch.equal(waveform * 32768, torch.arange(4000.0, 12000.0))


def test_the_whole_file_is_read_when_the_manifest_rounds(make_utterance: Make) -> None:
    assert len(read_audio(make_utterance(seconds=1.004, duration=1.0), 16000, resample=False)) == 16064


def test_a_channel_is_exact_with_and_without_an_offset(make_utterance: Make) -> None:
    samples = np.stack([np.arange(16000), -np.arange(16000)], axis=1).astype(np.int16)
    right = read_audio(make_utterance("r", samples=samples, duration=1.0, channel=1), 16000, resample=False)
    assert torch.equal(right * 32768, -torch.arange(16000.0))
    left = read_audio(make_utterance("l", samples=samples, offset=0.25, duration=0.5, channel=0), 16000, resample=False)
    assert torch.equal(left * 32768, torch.arange(4000.0, 12000.0))


def test_a_channel_that_is_not_there(make_utterance: Make) -> None:
    assert "has 2 channel(s), but channel 2 is asked for" in refusal(make_utterance(channels=2, channel=2))


def test_missing_file(tmp_path: Path) -> None:
    assert "no such file" in refusal(Utterance("a", tmp_path / "none.wav", 1.0, ""))


def test_a_file_out_of_reach(tmp_path: Path) -> None:
    """What is_file() raises for, as it does for folders that may not be entered."""
    assert "cannot be reached (File name too long)" in refusal(Utterance("a", tmp_path / f"{'a' * 300}.wav", 1.0, ""))


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    assert "empty (0 bytes)" in refusal(Utterance("a", tmp_path / "a.wav", 1.0, ""))


@pytest.mark.parametrize("name", ["a.wav", "a.raw", "a"])
def test_not_audio(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("this is not audio, whatever its name says")
    assert "cannot be read as audio" in refusal(Utterance("a", tmp_path / name, 1.0, ""))


def test_zero_length(make_utterance: Make) -> None:
    assert "zero length" in refusal(make_utterance(samples=np.zeros(0), duration=1.0))


def test_wrong_rate_names_both_and_the_remedy(make_utterance: Make) -> None:
    reason = refusal(make_utterance(sample_rate=8000))
    assert "8000 Hz" in reason
    assert "data.sample_rate is 16000 Hz" in reason
    assert "set data.resample=true" in reason
    assert "data.sample_rate=8000" in reason


@pytest.mark.parametrize(("rate", "target"), [(44100, 16000), (8000, 16000), (48000, 16000), (16000, 8000)])
@pytest.mark.parametrize("segment", [{}, {"offset": 0.1234, "duration": 0.31}])
def test_another_rate_is_resampled_if_asked_for(
    make_utterance: Make, rate: int, target: int, segment: dict[str, float]
) -> None:
    """As torchaudio resamples the samples that the file has; their number is known from the header."""
    utterance = make_utterance(seconds=0.777, sample_rate=rate, subtype="FLOAT", **segment)
    samples = read_audio(utterance, rate, resample=False)
    waveform = read_audio(utterance, target, resample=True)
    torch.testing.assert_close(waveform, torchaudio.functional.resample(samples, rate, target), atol=2e-6, rtol=0)
    assert len(waveform) == num_samples(utterance, read_header(utterance.audio_filepath), target)


def test_files_of_the_wanted_rate_are_read_bitwise_equal_under_resample(make_utterance: Make) -> None:
    utterance = make_utterance()
    assert torch.equal(read_audio(utterance, 16000, resample=True), read_audio(utterance, 16000, resample=False))


@pytest.mark.parametrize("rate", [15_991, 2_000_000_011])
def test_a_rate_whose_filter_would_fill_the_memory_is_refused(make_utterance: Make, rate: int) -> None:
    utterance = make_utterance(samples=np.zeros(16000), sample_rate=rate, duration=16000 / rate)
    with pytest.raises(
        BadUtterance, match=rf"is sampled at {rate} Hz, an odd rate whose filter to 16000 Hz is too large"
    ):
        read_audio(utterance, 16000, resample=True)


def test_stereo(make_utterance: Make) -> None:
    assert "2 channels; make it mono" in refusal(make_utterance(channels=2))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(make_utterance: Make, value: float) -> None:
    samples = np.zeros(8000)
    samples[123] = value
    assert "sample 123 is" in refusal(make_utterance(samples=samples, duration=0.5, subtype="FLOAT"))


@pytest.mark.parametrize("claimed", [0.4, 0.56, 30.0])
def test_a_duration_that_lies(make_utterance: Make, claimed: float) -> None:
    assert f"lasts 0.500 s, but its manifest says {claimed:.3f} s" in refusal(make_utterance(duration=claimed))


@pytest.mark.parametrize("claimed", [0.0, -1.0, float("nan"), float("inf")])
def test_a_duration_that_is_none(make_utterance: Make, claimed: float) -> None:
    assert "duration must be above 0" in refusal(make_utterance(duration=claimed))


def test_segments_outside_the_file(make_utterance: Make) -> None:
    assert "said to go from 0.300 s to 0.800 s" in refusal(make_utterance(offset=0.3, duration=0.5))
    assert "offset must be at least 0" in refusal(make_utterance(offset=-0.1))
    assert "zero length" in refusal(make_utterance(offset=0.5, duration=0.01))


def test_a_stream_that_breaks_off(make_utterance: Make) -> None:
    utterance = make_utterance(seconds=2.0, suffix=".flac")
    content = utterance.audio_filepath.read_bytes()
    utterance.audio_filepath.write_bytes(content[: len(content) // 2])
    assert "breaks off" in refusal(utterance)


def test_a_refusal_travels_between_processes() -> None:
    copy = pickle.loads(pickle.dumps(BadUtterance("u", Path("f.wav"), "is bad")))
    assert (copy.utterance_id, copy.file, copy.reason) == ("u", Path("f.wav"), "is bad")
    assert str(copy) == "f.wav: is bad (utterance u)"


def test_audio_suffixes_are_those_of_the_formats_that_have_a_header() -> None:
    assert {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".sph", ".au"} <= audio_suffixes()
    assert ".raw" not in audio_suffixes()
    assert ".txt" not in audio_suffixes()


def test_samples_whose_power_overflows_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "loud.wav"
    soundfile.write(path, np.array([0.0, 1e30] * 800, dtype=np.float32), 8000, subtype="FLOAT")
    with pytest.raises(BadUtterance, match=r"loud.* holds a sample of 1e\+30, whose power features cannot hold"):
        read_audio(Utterance("loud", path, 0.2, "x"), 8000, resample=False)
