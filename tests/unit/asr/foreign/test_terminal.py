"""Whatever ids, paths and texts hold, a terminal and a log get printable lines, one for each thing that is said."""

import io
import logging
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.data.audio import BadUtterance
from asr.foreign.terminal import ShownFormatter, log_to_stderr, say, shown, shown_lines
from asr.runs.console import evaluation_line
from asr.runs.loggers import setup_logging
from distributed.errors import LearnerError, UsageError
from scripts.composition.run_start import log_traceback
from scripts.composition.startup import line_for_people

CLEAR = "\x1b[2J"
HOSTILE = {
    "clear the screen": CLEAR,
    "rename the window": "\x1b]0;owned\x07",
    "C1 sequence": "\x9b2J",
    "line of its own": "a\nerror: all is lost",
    "over what was said": "a\rdone",
    "back": "a\x08\x08",
    "delete": "\x7f",
    "reset": "\x1bc",
    "turned round": "\u202egpj.exe",
    "isolated": "\u2066a\u2069",
    "next line": "a\x85b",
    "line separator": "a\u2028b",
    "half a character": "\ud800",
    "shift out": "\x0e",
    "form feed": "a\x0cb",
    "vertical tab": "a\x0bb",
    "NUL": "a\0b",
    "bell": "\x07" * 50,
    "paste": "\x1b[200~rm -rf /\n\x1b[201~",
}
RAW = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The root logger is as before."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    for handler in [each for each in root.handlers if each not in before]:
        root.removeHandler(handler)
        handler.close()
    root.handlers[:] = before


def printed(text: str) -> str:
    file = io.StringIO()
    say(f"a.wav\t{text}", file=file)
    return file.getvalue()


def formatted(text: str) -> str:
    formatter = ShownFormatter("%(levelname)s %(message)s")
    record = logging.LogRecord(
        "asr.x", logging.WARNING, "x.py", 1, "left out: %s", (BadUtterance(text, Path(text), text),), None
    )
    return formatter.format(record) + "\n"


def told_by_a_learner(text: str) -> str:
    return line_for_people(LearnerError(text)) or ""


def told_of_a_path(text: str) -> str:
    return line_for_people(OSError(2, text, text)) or ""


def told_of_a_setting(text: str) -> str:
    return line_for_people(UsageError(text)) or ""


def told_of_an_utterance(text: str) -> str:
    return line_for_people(BadUtterance(text, Path(text), text)) or ""


def evaluated(text: str) -> str:
    return evaluation_line({f"eval/{text.replace('/', '')}/loss": 1.0, "epoch": 1.0}, "1/2") + "\n"


@pytest.mark.parametrize(
    "way",
    [printed, formatted, told_by_a_learner, told_of_a_path, told_of_a_setting, told_of_an_utterance, evaluated],
    ids=lambda way: way.__name__,
)
@pytest.mark.parametrize("name", HOSTILE)
def test_no_way_to_the_terminal_lets_a_control_character_through(way: Callable[[str], str], name: str) -> None:
    line = way(HOSTILE[name])
    assert line.count("\n") == 1
    assert line.endswith("\n")
    assert not RAW.search(line)


@given(text=st.text(st.characters(exclude_categories=())))
def test_what_is_shown_is_one_line_and_can_be_written(text: str) -> None:
    line = shown(text)
    assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in line)
    line.encode()


@pytest.mark.parametrize("text", ["", "seven red birds", "\u00e9\u4e2d \U0001f600", "C:\\new", "\u0646\u200c\u0647"])
def test_ordinary_text_is_shown_as_it_is(text: str) -> None:
    assert shown(text) == text


def test_control_characters_are_escaped_as_python_does() -> None:
    assert shown("\x1b[2J\t\n\u202e") == r"\x1b[2J\t\n\u202e"
    assert shown_lines("a\tb\n\x1b") == "a\tb\n\\x1b"


def test_the_logs_of_a_run_are_printable_with_their_tracebacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logging(tmp_path, 0)
    log = logging.getLogger("asr.test")
    try:
        raise ValueError(f"{CLEAR}\nsecond")
    except ValueError:
        log.exception("of %s", CLEAR)
        log_traceback(tmp_path, 0)
    for text in ((tmp_path / "logs" / "rank-0.log").read_text(), capsys.readouterr().err):
        assert "of \\x1b[2J" in text
        assert "ValueError: \\x1b[2J" in text
        assert not RAW.search(text)


def test_the_log_of_an_entry_point_is_on_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    logging.getLogger().handlers.clear()
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    log_to_stderr(logging.WARNING)
    logging.getLogger("asr.test").warning("%s: %s", "a.wav", "x\ny")
    assert file.getvalue() == "a.wav: x\\ny\n"
