"""transcribe.py stream=true: texts that grow, in place, in lines or as events, of files and of a pipe."""

import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asr.decoding.greedy import Greedy
from asr.foreign.terminal import say_over
from asr.recogniser import load
from distributed.errors import UsageError
from scripts.composition import streaming
from scripts.transcribe import main
from tests.unit.asr.recordings import RATE, speech
from tests.unit.asr.test_speech_stream import CHUNKED

Run = Callable[..., Path]
SYMBOLS = "decode.max_symbols=2"


@pytest.fixture
def run(random_run: Run) -> Path:
    return random_run("run", *CHUNKED)


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(1.7), RATE, subtype="FLOAT")
    return path


def expected(run: Path, audio: Path) -> Any:
    (whole,) = load(run, decode=Greedy(max_symbols=2)).transcribe(audio, alignment=False)
    assert whole.words
    return whole


def test_events_tell_what_was_emitted_and_when(
    run: Path, audio: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pcm = (32767 * speech(1.7)).astype("<i2").tobytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(pcm)))
    main([f"run={run}", SYMBOLS, "stream=true", "format=json", f"rate={RATE}", str(audio), "-"])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    whole = expected(run, audio)
    for source in (str(audio), "-"):
        *partial, final = [each for each in events if each["file"] == source]
        assert {each["event"] for each in partial} == {"partial"}
        assert (final["event"], final["error"]) == ("final", None)
        words: list[Any] = []
        for event in partial:
            assert event["words"]
            assert all(word["emitted"] <= event["seconds"] for word in event["words"])
            words[event["first"] :] = event["words"]
        assert len(words) > 1
        assert words[:-1] == final["words"][: len(words) - 1]
        if source != "-":  # 16 bits are another recording
            assert final["text"] == whole.text
            assert [word["start"] for word in final["words"]] == [round(word.start, 3) for word in whole.words]


def test_lines_where_there_is_no_terminal(run: Path, audio: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([f"run={run}", SYMBOLS, "stream=true", str(audio)])
    *partial, final = capsys.readouterr().out.rstrip("\n").split("\n")
    assert final == f"{audio}\t{expected(run, audio).text}"
    rows = [line.split("\t") for line in partial]
    assert all(row[0] == str(audio) and final.split("\t")[1].startswith(row[2]) for row in rows[:3])
    assert all(len(row[2]) <= 203 and row[2].removeprefix("...") in final for row in rows)
    assert len({row[2] for row in rows}) == len(rows) > 2


def test_in_place_on_a_terminal(
    run: Path, audio: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "12")
    main([f"run={run}", SYMBOLS, "stream=true", str(audio)])
    *places, final = capsys.readouterr().out.split("\r")
    assert final == f"\x1b[K{audio}\t{expected(run, audio).text}\n"
    assert len(places) > 3
    assert all(place == "" or (place.endswith("\x1b[K") and len(place) <= 11 + 3) for place in places)
    say_over("\x1b]0;title 漢字漢字漢字")
    assert capsys.readouterr().out == "\r字漢字漢字\x1b[K"


def test_at_the_pace_of_speech(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "short.wav"
    soundfile.write(path, speech(0.6), RATE)
    main([f"run={run}", SYMBOLS, "stream=true", "format=json", str(path)])  # what is computed once is computed
    capsys.readouterr()
    began = time.monotonic()
    main([f"run={run}", SYMBOLS, "stream=true", "format=json", "pace=spoken", str(path)])
    assert time.monotonic() - began >= 0.6
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(each["elapsed"] >= each["seconds"] - 0.001 for each in events)


def test_what_breaks_off_is_named_and_the_others_go_on(
    run: Path, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    broken, empty, text = tmp_path / "broken.wav", tmp_path / "empty.wav", tmp_path / "text.wav"
    soundfile.write(broken, np.append(speech(6), np.float32(np.nan)), RATE, subtype="FLOAT")
    soundfile.write(empty, np.zeros(0), RATE)
    text.write_text("not audio")
    with pytest.raises(UsageError, match=r"^3 of 4 files or folders could not be transcribed"):
        main([f"run={run}", SYMBOLS, "stream=true", *map(str, (broken, empty, text, audio))])
    lines = capsys.readouterr().out.rstrip("\n").split("\n")
    assert lines[-1] == f"{audio}\t{expected(run, audio).text}"
    (heard,) = (line for line in lines if line.startswith(f"{broken}\t") and line.count("\t") == 1)
    assert len(heard) > len(f"{broken}\t")
    for path, reason in ((broken, "not a number"), (empty, "zero length"), (text, "cannot be read as audio")):
        assert any(line.startswith(f"not transcribed: {path}: ") and reason in line for line in caplog.messages)


def test_an_interrupt_by_hand_prints_what_was_heard(
    run: Path, audio: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = streaming.live_stream_of

    def interrupted(*arguments: Any) -> Any:
        stream = pieces(*arguments)

        def blocks() -> Any:
            for _ in range(10):
                yield next(stream.blocks)
            raise KeyboardInterrupt

        return type(stream)(stream.rate, blocks())

    monkeypatch.setattr(streaming, "live_stream_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main([f"run={run}", SYMBOLS, "stream=true", str(audio)])
    final = capsys.readouterr().out.splitlines()[-1]
    assert final.startswith(f"{audio}\t")
    assert expected(run, audio).text.startswith(final.split("\t")[1][:-1])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("format=srt",), r"^stream=true prints text as it comes, .* choose format=text or json$"),
        (("out=texts",), r"^stream=true prints on standard output alone"),
        (("segments=vad",), r"^segments=vad: a stream is not cut into pieces"),
        (
            ("stream=false", "pace=spoken"),
            r"^pace=spoken: only a stream has a pace; add stream=true, or leave it away$",
        ),
        (("decode=beam",), r"^decode=beam\d+ searches whole recordings; a stream takes decode=greedy$"),
    ],
)
def test_what_a_stream_has_no_use_for_is_refused(
    overrides: tuple[str, ...], message: str, run: Path, audio: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        main([f"run={run}", "stream=true", *overrides, str(audio)])
