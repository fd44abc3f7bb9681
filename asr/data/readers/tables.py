"""Text tables, tolerant of Windows line ends, a byte order mark, a missing newline at the end, and gzip.

Every row keeps its ``file:line``, so that a defect can be looked up. What is wrong with a row is a ``Defect``, one
utterance that cannot be used; what is wrong with a whole file is a ``CorpusError``.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.data.corpus import CorpusError
from asr.foreign import files
from asr.foreign.files import TABLE, ForeignError
from asr.foreign.json_text import parse_json

_BLANKS = re.compile(r"[ \t]+")  # not \s: a no-break space may belong to a path


@dataclass(frozen=True, slots=True)
class Defect:
    """An utterance that cannot be used: where it is written, its id as far as known, and why (with the remedy)."""

    where: str  # file:line, or the file
    utterance_id: str
    reason: str
    by_choice: bool = False  # nothing is wrong with it: a setting leaves it out, and ``data.on_bad`` has no say

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" + (f" (utterance {self.utterance_id})" if self.utterance_id else "")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table whose first column is a name."""

    where: str  # file:line
    value: str  # what follows the name


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a file by name, in file order, and as defects the lines that are no rows or repeat a name."""

    path: Path
    rows: dict[str, Row]
    defects: list[Defect]


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """``file:line`` and content of every line that is not blank; of ``*.gz`` files after decompression.

    Raises:
        CorpusError: the file is missing, damaged, not UTF-8, or larger than a table may be.
    """
    try:
        for number, line in files.read_lines(path, TABLE):
            if line.strip():
                yield f"{path}:{number}", line
    except ForeignError as error:
        raise CorpusError(f"{error}; if it was damaged, copy it anew, or correct data.root") from None


def read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """``file:line`` and the value of every line of a file of JSON lines; a Defect for a line that is not JSON.

    Raises:
        CorpusError: the file is missing, damaged or not UTF-8.
    """
    for where, line in read_lines(path):
        try:
            yield where, parse_json(line)
        except ValueError as error:
            yield where, Defect(where, "", f"{error}; write one object per line")


def name_of(value: object) -> str:
    """A name as text, which JSON may hold as a number; empty for null."""
    return "" if value is None else str(value)


def read_table(path: Path) -> Table:
    """Read rows of a name, blanks and a value (may be empty), as in Kaldi's files and LibriSpeech's transcripts."""
    table = Table(path, {}, [])
    for where, line in read_lines(path):
        name, _, value = _BLANKS.sub(" ", line.strip(" \t"), count=1).partition(" ")
        if name in table.rows:
            reason = f"the id {name!r} is already that of {table.rows[name].where}; give every line its own id"
            table.defects.append(Defect(where, name, reason))
        else:
            table.rows[name] = Row(where, value)
    return table
