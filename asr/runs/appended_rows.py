"""Files of JSON lines that a run appends to, metrics and refusals: a damaged line costs that line, not the run.

A power cut, a full disk or an editor may leave anything in them. Damaged lines are moved to ``<name>.damaged`` beside
the file when the run rewrites it; readers skip them. Both log how many there are.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.foreign.files import ROWS, read_byte_lines
from asr.foreign.json_text import parse_json
from asr.runs.files import write_atomically

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Damaged:
    """A line that does not hold a row."""

    number: int
    line: bytes  # with its line end
    reason: str


@dataclass(frozen=True, slots=True)
class Lines:
    """The complete lines of a file; a last line that a kill has cut short is in neither list."""

    path: Path
    rows: Sequence[tuple[str, dict[str, Any]]]  # (line without its end, parsed row)
    damaged: Sequence[Damaged]

    def log_damaged(self, outcome: str) -> None:
        """Log how many lines are damaged, if any, and ``outcome``, what was done with them."""
        if self.damaged:
            first, count = self.damaged[0], len(self.damaged)
            lines = f"{count} damaged line{'s' * (count > 1)} {outcome}"
            log.warning("%s: %s; line %d %s", self.path, lines, first.number, first.reason)


def read_appended(path: Path, defect: Callable[[dict[str, Any]], str | None]) -> Lines:
    """Read the lines of a file; ``defect`` returns what is wrong with a parsed object, or None.

    Raises:
        ForeignError: the file cannot be read at all, or has a line of megabytes.
    """
    rows: list[tuple[str, dict[str, Any]]] = []
    damaged: list[Damaged] = []
    for number, line in enumerate(read_byte_lines(path, ROWS), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            text = line[:-1].decode()
            row = parse_json(text)
            reason = defect(row) if isinstance(row, dict) else "is no JSON object"
        except ValueError as error:
            reason = f"cannot be read ({error})"
        if reason is None:
            rows.append((text, row))
        else:
            damaged.append(Damaged(number, line, reason))
    return Lines(path, rows, damaged)


def keep(lines: Lines, kept: Sequence[str]) -> None:
    """Rewrite a file atomically with the lines ``kept`` only; it is not written where that changes nothing.

    Damaged lines are appended to ``<name>.damaged`` beside it.
    """
    if lines.damaged:
        aside = lines.path.with_suffix(".damaged")
        with aside.open("ab") as file:
            file.writelines(each.line for each in lines.damaged)
        lines.log_damaged(f"set aside in {aside.name}")
    text = "".join(f"{line}\n" for line in kept)
    if lines.path.stat().st_size != len(text.encode()):
        write_atomically(lines.path, text)
