"""Transcription of files and folders: what is bad is passed over, what is known is printed, what is alike goes together."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data import audio_files
from asr.data.audio_files import AudioFiles, find_audio
from asr.data.batch import Batch
from asr.data.plan import Budgets
from asr.parts import build
from distributed.errors import UsageError
from scripts.composition.compose import compose
from scripts.transcribe import main

Run = Callable[..., Path]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(name, seconds, rate=8000, channels=1)``: an audio file of noise."""

    def file(name: str, seconds: float, rate: int = 8000, channels: int = 1) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = 0.1 * np.random.default_rng(len(name)).standard_normal((round(seconds * rate), channels))
        soundfile.write(path, samples, rate)
        return path

    return file


def paths(output: str) -> list[str]:
    return [line.split("\t")[0] for line in output.splitlines()]


def test_a_bad_file_is_named_and_passed_over(
    random_run: Run, write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [write("first.wav", 0.5), write("last.wav", 0.9, rate=16000, channels=2)]
    text, short, torn, odd = (
        tmp_path / "text.wav",
        write("short.wav", 0.001),
        write("torn.flac", 3),
        tmp_path / "nan.wav",
    )
    text.write_text("not audio")
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    soundfile.write(odd, np.full(4000, np.nan, dtype=np.float32), 8000, subtype="FLOAT")
    bad = [text, short, torn, odd, tmp_path / "none.wav"]
    caplog.set_level(logging.WARNING)
    with pytest.raises(UsageError, match=r"^5 of 7 files or folders could not be transcribed; each is named above$"):
        main([f"run={random_run('run')}", *map(str, [good[0], *bad, good[1]])])
    assert paths(capsys.readouterr().out) == [str(each) for each in good]
    lines = [each.getMessage() for each in caplog.records if each.getMessage().startswith("not transcribed")]
    assert len(lines) == len(bad)
    for file, reason in zip(
        bad,
        (
            "cannot be read as audio",
            "too short for one frame",
            "breaks off",
            "is nan, not a number to compute with",
            "no such file",
        ),
        strict=True,
    ):
        (line,) = (line for line in lines if line.startswith(f"not transcribed: {file}: "))
        assert reason in line


def test_what_cannot_be_used_at_all_ends_with_the_count(
    random_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=r"^2 of 2 files or folders could not be transcribed"):
        main([f"run={random_run('run')}", str(tmp_path / "none.wav"), str(tmp_path / "neither.flac")])
    assert capsys.readouterr().out == ""


def test_a_folder_stands_for_the_audio_below_it(
    random_run: Run, write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [write(f"corpus/{name}", 0.3) for name in ("b.wav", "a/2.FLAC", "a/1.wav", "c/d/e.ogg")]
    (tmp_path / "corpus" / "a" / "notes.txt").write_text("no audio")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"^1 of 5 files or folders"):
        main([f"run={random_run('run')}", str(tmp_path / "corpus"), str(files[0]), str(tmp_path / "empty")])
    assert paths(capsys.readouterr().out) == sorted(map(str, files)), "each once"
    assert f"not transcribed: {tmp_path / 'empty'}: no audio file lies in this folder or below" in caplog.text


def test_files_keep_the_order_in_which_they_are_named(write: Write, tmp_path: Path) -> None:
    for name in ("b/2.wav", "b/1.wav", "a.wav"):
        write(name, 0.3)
    found, bad = find_audio([tmp_path / "b", tmp_path / "none.wav", tmp_path / "a.wav", tmp_path / "b" / "2.wav"])
    assert [each.name for each in found] == ["1.wav", "2.wav", "none.wav", "a.wav"]
    assert not bad


def test_a_result_is_printed_before_the_next_unit_is_read(
    random_run: Run, write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [write(f"{index}.wav", 0.3 + 0.1 * index) for index in range(4)]
    seen: list[int] = []
    load = AudioFiles.__getitem__

    def watched(self: AudioFiles, unit: object) -> Batch:
        seen.append(len(capsys.readouterr().out.splitlines()))
        return load(self, unit)

    monkeypatch.setattr(AudioFiles, "__getitem__", watched)
    main([f"run={random_run('run')}", "unit_utterances=2", *map(str, files)])
    assert seen == [0, 2]
    assert paths(capsys.readouterr().out) == [str(each) for each in files[2:]]


def test_units_are_of_similar_length_and_within_the_budget(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = (0.9, 0.2, 0.8, 0.1, 2.0, 0.3, 0.7)
    files = [write(f"{index}.wav", each) for index, each in enumerate(seconds)]
    features = build(compose("train", ["features.num_mels=20", "data.sample_rate=8000"]).features)
    audio = AudioFiles(files, features)

    def units(**budgets: int) -> Iterator[tuple[int, ...]]:
        return (unit.utterances for unit in audio.units(Budgets(**budgets)))

    assert list(units(utterances=3, frames=10**6, cells=10**9)) == [(3, 1, 5), (6, 2, 0), (4,)]
    assert list(units(utterances=3, frames=100, cells=10**9)) == [(3, 1, 5), (6,), (2,), (0,), (4,)]
    monkeypatch.setattr(audio_files, "UNITS_SORTED", 1)
    assert list(units(utterances=3, frames=10**6, cells=10**9)) == [(1, 2, 0), (3, 5, 4), (6,)], "the nearest alone"
    batch = audio[next(iter(audio.units(Budgets(3, 10**6, 10**9))))]
    assert batch.audio_seconds == pytest.approx(0.2 + 0.8 + 0.9)
    assert batch.feature_lengths.tolist() == sorted(batch.feature_lengths.tolist())


def test_no_result_overwrites_another_or_what_is_there(random_run: Run, write: Write, tmp_path: Path) -> None:
    run, out = random_run("run"), tmp_path / "texts"
    one, other, named_so = write("a.wav", 0.5), write("b/a.wav", 0.5), write("stdin.wav", 0.5)
    given = [f"run={run}", f"out={out}"]
    with pytest.raises(UsageError, match=rf"^out={out}: {one} and {other} would both be written to a.txt; transcribe"):
        main([*given, str(one), str(other)])
    with pytest.raises(UsageError, match=rf"^out={out}: {named_so} and - would both be written to stdin.txt"):
        main([*given, str(named_so), "-"])
    assert not out.exists()
    main([*given, str(one)])
    (out / "a.txt").write_text("corrected by hand")
    with pytest.raises(UsageError, match=rf"^out={out}: {out / 'a.txt'} is there already; name another folder"):
        main([*given, str(one)])
    assert (out / "a.txt").read_text() == "corrected by hand"
    main([*given, str(named_so)])
    assert (out / "stdin.txt").is_file(), "other names are free"
