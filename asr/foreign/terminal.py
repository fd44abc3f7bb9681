"""What comes from elsewhere on its way to a terminal or a log: control characters are shown, never sent.

An id, a path or a text may hold an escape sequence that clears the screen, renames the window or types a command, a line
end that begins a line of its own, or a direction mark that turns text round. Every line that people see goes through
``say`` or ``ShownFormatter``. Files of results keep exact texts: they are data.
"""

import copy
import logging
import re
import shutil
import sys
from typing import Any, TextIO

# C0 but for the tab, DEL and C1; line and paragraph separators; marks that turn text round; halves of characters.
_CONTROL = re.compile(
    "[\0-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

LONGEST_ERROR = 3000  # characters


def shown(text: object) -> str:
    """Return ``text`` as one line in which every control character is written out: ``\\x1b[2J``."""
    return _escaped(str(text)).replace("\t", "\\t")


def shown_error(error: object) -> str:
    """``shown`` for an error's message; the middle of a very long one (an id may be a megabyte) is left out."""
    line = shown(error)
    return line if len(line) <= LONGEST_ERROR else f"{line[: LONGEST_ERROR // 2]} [...] {line[-LONGEST_ERROR // 2 :]}"


def shown_lines(text: str) -> str:
    """``shown`` for a text of our own with several lines, such as a traceback: line ends and tabs stay."""
    return "\n".join(_escaped(line) for line in text.split("\n"))


def say(*lines: str, file: TextIO | None = None) -> None:
    """Print lines, each as one line, on standard output by default; tabs stay."""
    print(*map(_escaped, lines), sep="\n", file=file, flush=True)


def say_over(text: str) -> None:
    """Write the end of a text over the last line of a terminal on standard output, as much as fits; "" clears it."""
    from rich.cells import cell_len  # the launcher, which needs this module, begins with the standard library alone

    line, room = shown(text), max(shutil.get_terminal_size().columns - 1, 1)
    while cell_len(line) > room:
        line = line[max(len(line) - room, 1) :] if len(line) > room else line[1:]
    print(f"\r{line}\x1b[K", end="", flush=True)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Set up the log of an entry point without a run folder: bare messages on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ShownFormatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


class ShownFormatter(logging.Formatter):
    """Formats each message as one line, whatever its arguments hold; tracebacks and Python's warnings have several."""

    def format(self, record: logging.LogRecord) -> str:
        own = copy.copy(record)
        own.exc_text = None  # as another handler has formatted it
        return super().format(own)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        several = record.name == "py.warnings"
        record.message = shown_lines(record.message) if several else _escaped(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return shown_lines(super().formatException(ei))


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)
