"""The Python API: a table of good and bad recordings, batches that do not matter, windows, and the same from the command line."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from asr.data import audio_streams
from asr.data.audio_files import Waveform
from asr.data.audio_streams import Pcm
from asr.decoding.transcript import Transcript
from asr.recogniser import Audio, Transcriber, load
from distributed.errors import UsageError
from scripts.composition.startup import REPOSITORY
from scripts.transcribe import main
from tests.unit.asr.recordings import RATE, TABLE, Row, endless, speech

Run = Callable[..., Path]


@pytest.fixture(autouse=True)
def without_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine has installed does not matter; a test that wants ffmpeg brings one."""
    monkeypatch.setattr("asr.data.audio_inputs.ffmpeg", lambda: None)


@pytest.fixture
def few_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search takes two labels of a frame, not ten; the model, which was never trained, writes as many as it may."""
    monkeypatch.setattr("asr.recogniser.MAX_SYMBOLS", 2)


@pytest.fixture
def run(random_run: Run) -> Path:
    return random_run("run")


@pytest.fixture
def files(tmp_path: Path) -> dict[Path, Row]:
    (tmp_path / "audio").mkdir()
    found = {tmp_path / "audio" / row.name: row for row in TABLE}
    for path, row in found.items():
        row.write(path)
    return found


def check(found: Transcript, row: Row, path: Path) -> None:
    assert found.source == str(path)
    if row.error is not None:
        assert row.error in (found.error or "")
        assert found.seconds == row.heard
        assert bool(found.words) == bool(found.text) == bool(row.heard)
        assert row.heard == 0 or found.words[-1].end > row.heard - 1
        return
    assert found.error is None
    assert found.seconds == pytest.approx(soundfile.info(path).duration, abs=0.01)
    if path.name != "long.wav":  # a window's words are those of the text; its spaces may differ
        assert [word.text for word in found.words] == found.text.split()
    starts = [word.start for word in found.words]
    assert starts == sorted(starts)
    assert all(0 <= word.start <= word.end <= found.seconds for word in found.words)
    assert all(0 <= word.confidence <= 1 for word in found.words)


def test_the_table_by_the_api(run: Path, files: dict[Path, Row]) -> None:
    found = load(run, window_seconds=4, overlap_seconds=1).transcribe(files)
    for transcript, (path, row) in zip(found, files.items(), strict=True):
        check(transcript, row, path)
    assert len({each.text for each in found if each.error is None}) > 4, "the model says different things"


def test_the_table_by_the_command_line_is_that_of_the_api(
    run: Path, files: dict[Path, Row], capsys: pytest.CaptureFixture[str]
) -> None:
    bad = sum(row.error is not None for row in TABLE)
    with pytest.raises(UsageError, match=f"^{bad} of {len(TABLE)} files or folders could not be transcribed"):
        main([f"run={run}", "format=json", "window_seconds=4", "overlap_seconds=1", *map(str, files)])
    rows = {row["file"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    for transcript in load(run, window_seconds=4, overlap_seconds=1).transcribe(files):
        row = rows[transcript.source]
        assert (row["text"], row["error"]) == (transcript.text, transcript.error)
        assert [word["start"] for word in row["words"]] == [round(word.start, 3) for word in transcript.words]


@pytest.mark.usefixtures("few_labels")
@pytest.mark.parametrize("overrides", [(), ("model=conformer_tiny", "model.encoder.layers=1")])
@pytest.mark.parametrize("alignment", [True, False])
def test_a_file_in_a_batch_of_16_is_transcribed_as_alone(
    random_run: Run, overrides: tuple[str, ...], alignment: bool
) -> None:
    run = random_run("batches", *overrides)
    audio = [speech(0.3 + 0.1 * index, seed=index) for index in range(16)]
    together = load(run, batch_size=16).transcribe(audio, alignment=alignment)
    alone = load(run, batch_size=1).transcribe(audio, alignment=alignment)
    for one, other in zip(together, alone, strict=True):
        assert [(word.text, word.start, word.end) for word in one.words] == [
            (word.text, word.start, word.end) for word in other.words
        ]
        assert one.text == other.text
        assert [word.confidence for word in one.words] == pytest.approx(
            [word.confidence for word in other.words], abs=1e-4
        )
    assert len({each.text for each in together}) > 4


@pytest.mark.usefixtures("few_labels")
def test_paths_arrays_tensors_and_pcm_say_the_same(run: Path, tmp_path: Path) -> None:
    samples = (32767 * speech(0.8)).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    floating = (samples / 32768).astype(np.float32)
    given: list[Audio] = [
        tmp_path / "a.wav", str(tmp_path / "a.wav"), samples, floating, floating.astype(np.float64),
        torch.from_numpy(floating), Waveform(torch.from_numpy(floating), RATE, "mine"), Pcm(io.BytesIO(samples.tobytes()), RATE),
    ]  # fmt: skip
    found = load(run).transcribe(given)
    assert len({each.text for each in found}) == 1
    assert found[0].text
    assert [each.source for each in found[2:]] == ["array 2", "array 3", "array 4", "array 5", "mine", "-"]
    assert load(run).transcribe(tmp_path / "a.wav") == found[:1], "one recording alone"


@pytest.mark.usefixtures("few_labels")
def test_bad_arrays_are_named_and_hold_nobody_up(run: Path) -> None:
    good = speech(0.5)
    found = load(run).transcribe([np.zeros((2, 800)), good, np.arange(800), np.full(800, np.nan), np.zeros(3)])
    errors = ["(2, 800)", None, "type int64", "not a number", "too short"]
    for each, error in zip(found, errors, strict=True):
        assert error is None if each.error is None else str(error) in each.error


@pytest.mark.usefixtures("few_labels")
def test_arrays_of_every_layout_say_the_same_and_odd_kinds_are_named(run: Path) -> None:
    samples = (32767 * speech(0.8)).astype(np.int16)
    floating = samples / 32768
    same = [
        samples, samples.astype(">i2"), samples[::-1].copy()[::-1], np.repeat(samples, 2)[::2], floating.astype(">f8"),
        floating.astype(np.longdouble), Waveform(torch.from_numpy(samples), RATE, "mine"),
    ]  # fmt: skip
    odd = [
        floating.astype(str), floating.astype(object), floating + 0j, floating > 0, None, floating.tolist(),
        Waveform(torch.zeros(2, 800), RATE, "w"), Waveform(torch.zeros(800), 0, "w"), Waveform(torch.zeros(800), 4001, "w"),
    ]  # fmt: skip
    found = load(run).transcribe([*same, *odd])
    assert len({each.text for each in found[: len(same)]}) == 1
    assert all(each.error is None and each.text for each in found[: len(same)])
    reasons = ["<U", "object", "complex", "bool", "NoneType", "type list", "(2, 800)", "the rate 0", "4001 Hz"]
    for each, reason in zip(found[len(same) :], reasons, strict=True):
        assert reason in (each.error or "")
        assert not each.text


@pytest.mark.usefixtures("few_labels")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_long_array_is_checked_as_a_short_one_is(run: Path, value: float) -> None:
    samples = speech(22)
    samples[15 * RATE + 7] = value
    model = load(run, window_seconds=4, overlap_seconds=1)
    bad, good = model.transcribe([samples, speech(22)])
    assert "within the samples from number 120000 on, sample 7 is" in (bad.error or "")
    assert bad.seconds == 15
    assert good.error is None
    assert [word for word in bad.words if word.end < 12] == [word for word in good.words if word.end < 12]


@pytest.mark.usefixtures("few_labels")
def test_what_was_collected_before_a_break_is_decoded(run: Path) -> None:
    """Whatever number of windows is decoded together, and where no window is full yet."""
    samples = np.append(speech(12), np.float32(np.nan))
    found = [
        load(run, window_seconds=4, overlap_seconds=1, batch_size=size).transcribe([samples])[0] for size in (1, 2, 16)
    ]
    assert {each.seconds for each in found} == {10.0}
    assert found[0].words
    assert len({each.text for each in found}) == 1
    (alone,) = load(run, window_seconds=11, overlap_seconds=5).transcribe([samples])
    assert alone.seconds == 10.0
    assert alone.words


def test_batches_of_nothing_and_endless_windows_are_refused(run: Path) -> None:
    with pytest.raises(UsageError, match=r"^batch_size=0: must be at least 1 recording"):
        load(run, batch_size=0)
    for value in (float("nan"), float("inf")):
        with pytest.raises(UsageError, match=r"^window_seconds=(nan|inf): must be a finite number of seconds"):
            load(run, window_seconds=value)


@pytest.mark.usefixtures("few_labels")
def test_model_folders_load_and_other_folders_are_refused(run: Path, random_lm_run: Run, tmp_path: Path) -> None:
    (folder,) = (run / "checkpoints").glob("step-*")
    audio = speech(0.9)
    assert load(folder).transcribe([audio]) == load(run).transcribe([audio])
    with pytest.raises(UsageError, match=r"no checkpoint there .*train the run first"):
        load(tmp_path)
    with pytest.raises(UsageError, match=r"writes no text"):
        load(random_lm_run("lm"))
    with pytest.raises(UsageError, match=r"overlap_seconds=20: the overlap must be above 0 and at most half a window"):
        load(run, overlap_seconds=20)


def test_the_api_needs_no_hydra(run: Path) -> None:
    code = (
        f"import sys; from asr.recogniser import load; load({str(run)!r}); "
        "sys.exit(any(name.split('.')[0] in ('hydra', 'scripts') for name in sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY, env=environment)


FFMPEG = """#!{python}
import sys
import numpy, soundfile
name = sys.argv[sys.argv.index("-i") + 1].removeprefix("file:")
if "bad" in name:
    sys.exit("moov atom not found")
samples, rate = soundfile.read(name + ".wav", dtype="float32")
assert sys.argv[sys.argv.index("-ar") + 1] == str(rate)
sys.stdout.buffer.write(samples.tobytes())
if "damaged" in name:
    print("Error submitting packet to decoder", file=sys.stderr)
"""


@pytest.mark.usefixtures("few_labels")
def test_ffmpeg_decodes_what_libsndfile_cannot(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a program in its place that takes the same arguments."""
    program = tmp_path / "ffmpeg"
    program.write_text(FFMPEG.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setattr("asr.data.audio_inputs.ffmpeg", lambda: str(program))
    names = ("good.m4a", "-i.m4a", "bad.m4a", "damaged.m4a")
    for name in names:
        (tmp_path / name).write_bytes(b"no format of libsndfile's")
        soundfile.write(tmp_path / f"{name}.wav", speech(0.8), RATE, format="WAV", subtype="FLOAT")
    plain = load(run).transcribe([tmp_path / "good.m4a.wav"])
    monkeypatch.chdir(tmp_path)
    found = load(run).transcribe(names)
    assert [each.text for each in found[:3]] == [plain[0].text, plain[0].text, ""]
    assert [word.text for word in found[3].words] == [word.text for word in plain[0].words], "what there was"
    assert [each.error for each in found] == [
        None, None, "cannot be read as audio (ffmpeg: moov atom not found)",
        "breaks off or is damaged (ffmpeg: Error submitting packet to decoder)",
    ]  # fmt: skip


@pytest.mark.usefixtures("few_labels")
@pytest.mark.skipif(audio_streams.ffmpeg() is None, reason="ffmpeg is not installed")
def test_the_real_ffmpeg(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = audio_streams.ffmpeg()
    assert program is not None
    monkeypatch.setattr("asr.data.audio_inputs.ffmpeg", lambda: program)
    soundfile.write(tmp_path / "a.wav", speech(2), RATE)
    subprocess.run([program, "-v", "error", "-i", tmp_path / "a.wav", tmp_path / "a.m4a"], check=True)
    (tmp_path / "text.m4a").write_text("not audio")
    endless(tmp_path / "endless.flac")
    (tmp_path / "list.m4a").write_text("ffconcat version 1.0\nfile a.wav\n")
    (tmp_path / "list.aac").write_text("#EXTM3U\n#EXTINF:2,\na.wav\n#EXT-X-ENDLIST\n")
    names = ("a.m4a", "text.m4a", "endless.flac", "list.m4a", "list.aac")
    good, bad, unknown, *lists = load(run).transcribe([tmp_path / name for name in names])
    assert unknown.error is None
    assert unknown.seconds == pytest.approx(0.8, abs=0.1)
    assert all("cannot be read as audio (ffmpeg: " in (each.error or "") and not each.text for each in lists)
    assert good.error is None
    assert good.seconds == pytest.approx(2, abs=0.1)
    assert "cannot be read as audio (ffmpeg: " in (bad.error or "")


@pytest.mark.usefixtures("few_labels")
def test_a_long_recording_is_in_memory_piece_by_piece(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are taken as windows need them, and batches are of few windows."""
    taken: list[int] = []
    asked: list[int] = []
    answers = Transcriber._answers

    class Pipe(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            taken.append(self.tell() // (2 * RATE))
            return super().read(size)

    def watched(self: Transcriber, batch: Any, *arguments: Any) -> Any:
        asked.append(len(batch.utterance_ids))
        assert taken[-1] <= 12 * sum(asked) + 24, "no more is read than is decoded"
        return answers(self, batch, *arguments)

    monkeypatch.setattr(Transcriber, "_answers", watched)
    model = load(run, window_seconds=12, overlap_seconds=2, batch_size=2)
    samples = (32767 * speech(100)).astype("<i2").tobytes()
    (found,) = model.transcribe(Pcm(Pipe(samples), RATE))
    assert asked == [2, 2, 2, 2, 2]
    assert found.seconds == pytest.approx(100)
    assert found.words[-1].end > 95
