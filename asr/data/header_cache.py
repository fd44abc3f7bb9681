"""Headers of a manifest's audio files, kept beside it: a run that starts again opens only the files that have changed.

    <manifest's folder>/.<manifest's name>.headers        JSON in two lines: a hash of the second one, and columns

An entry is of a file alone: it holds while the file's size and its times of content and of status are those that it was
read with, so that a manifest that has changed costs the headers of its new files. The time of status is set by the
system whenever a file is written, replaced or renamed, and by nobody else. Files that changed just before they were
looked at are not kept, as they may change again within the resolution of these times; nor are defects, which may pass.
One process reads what is missing and writes it, while the others of a run wait; where the folder cannot be written, each
reads by itself.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import soundfile

from asr.data.audio import Header
from asr.data.locking import locked
from asr.data.screening import HEADER_THREADS, read_headers
from asr.foreign.files import MEBIBYTE, ForeignError, Kind, read_text
from asr.foreign.json_text import parse_json
from asr.runs.files import write_atomically

FORMAT = 1
SETTLED_SECONDS = 2.0  # coarser than the times of any file system
COLUMNS = ("bytes", "modified_ns", "changed_ns", "samples", "rate", "channels")
TABLE_OF_HEADERS = Kind("table of headers", 2048 * MEBIBYTE)

logger = logging.getLogger(__name__)


State = tuple[int, int, int]  # size and times, of which one changes whenever the file does
Row = tuple[int, ...]  # the COLUMNS of a file: its state, then its header
Known = Mapping[str, Row]  # by the name of the file in the table
Found = dict[Path, Header | str]


def cached_headers(manifest: Path, files: Iterable[Path], *, may_write: bool) -> Found:
    """``read_headers(files)``, from the table beside ``manifest`` as far as it holds; written anew where it does not."""
    table, files = table_of(manifest), list(files)
    seen, known = _generation(table), read_table(table)
    headers, stale = _look_up(known, table, files)
    if not stale:
        return headers
    if not (may_write and os.access(table.parent, os.W_OK)):
        return headers | read_headers(stale)
    try:
        with locked(table.with_name(f"{table.name}.lock"), f"another process that reads the headers of {manifest}"):
            if _generation(table) == seen:
                return headers | _read_and_write(known, table, files, stale)
    except OSError as error:
        logger.warning("%s: headers are read again at every start, since the table cannot be kept: %s", table, error)
    headers, stale = _look_up(read_table(table), table, files)  # another process has read them, all but the defective
    return headers | read_headers(stale)


def table_of(manifest: Path) -> Path:
    """The table of a manifest."""
    return manifest.with_name(f".{manifest.name}.headers")


def _generation(table: Path) -> tuple[int, int] | None:
    """What changes whenever the table is written; None where there is none."""
    try:
        status = table.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _look_up(known: Known, table: Path, files: Sequence[Path]) -> tuple[Found, list[Path]]:
    """The headers that the table holds, and the files of which it holds none."""
    found: Found = {}
    stale = []
    for file, state in zip(files, states(files) if known else [None] * len(files), strict=True):
        kept = known.get(_name(file, table))
        if kept is not None and kept[:3] == state:
            found[file] = Header(*kept[3:])
        else:
            stale.append(file)
    return found, stale


def states(files: Sequence[Path]) -> list[State | None]:
    """The state of each file; None where it cannot be reached. In threads, as a network file system makes one wait."""

    def of(part: Sequence[Path]) -> list[State | None]:
        return [_state(os.fspath(file)) for file in part]

    size = -(-len(files) // HEADER_THREADS) or 1
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        parts = pool.map(of, (files[start : start + size] for start in range(0, len(files), size)))
        return [state for part in parts for state in part]


def _state(file: str) -> State | None:
    try:
        status = os.stat(file)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read_and_write(known: Known, table: Path, files: Sequence[Path], stale: Sequence[Path]) -> Found:
    """Read the stale headers; write the table of all files that have one, even if it is as it was: others wait for it."""
    before, now_ns = dict(zip(files, states(files), strict=True)), time.time_ns()
    read = read_headers(stale)
    kept: dict[str, Row] = {}
    for file, state in before.items():
        name, header = _name(file, table), read.get(file)
        if state is None or not _settled(state, now_ns):
            continue
        if isinstance(header, Header):
            kept[name] = (*state, header.num_samples, header.sample_rate, header.num_channels)
        elif header is None and name in known and known[name][:3] == state:
            kept[name] = known[name]
    write_table(table, kept)
    return read


def _settled(state: State, now_ns: int) -> bool:
    """Whether another change would show; times before 1970 are in no table."""
    return now_ns - state[2] >= SETTLED_SECONDS * 1e9 and state[1] >= 0


def _name(file: Path, table: Path) -> str:
    """The name of a file in the table: relative where it lies below the table's folder, which may then be moved."""
    name, folder = os.fspath(file), f"{os.fspath(table.parent)}/"
    return name[len(folder) :] if name.startswith(folder) else name


def write_table(table: Path, known: Known) -> None:
    """Write a table atomically."""
    columns = [[row[place] for row in known.values()] for place in range(len(COLUMNS))]
    content = json.dumps({"files": list(known), **dict(zip(COLUMNS, columns, strict=True))}, ensure_ascii=False)
    write_atomically(table, f"{json.dumps(_heading(content))}\n{content}\n")


def _heading(content: str) -> dict[str, Any]:
    """What a table begins with: another libsndfile may read other files, or find another length."""
    digest = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
    return {"format": FORMAT, "libsndfile": soundfile.__libsndfile_version__, "blake2b": digest}


def read_table(table: Path) -> Known:
    """The content of a table; empty where there is none, or none that can be used, which is logged."""
    if not table.exists():
        return {}
    try:
        heading, _, content = read_text(table, TABLE_OF_HEADERS).partition("\n")
        content = content.removesuffix("\n")
        if parse_json(heading) != _heading(content):
            raise ValueError("its content is not what its first line says, or of another version")
        return _parsed(parse_json(content))
    except (ForeignError, ValueError) as error:
        reason = error.reason if isinstance(error, ForeignError) else str(error)
        logger.warning("%s: headers are read anew, since this table of them cannot be used: %s", table, reason)
        return {}


def _parsed(content: Any) -> Known:
    """Raises ValueError where it is not what ``write_table`` writes."""
    if not isinstance(content, dict) or content.keys() != {"files", *COLUMNS}:
        raise ValueError(f"it must hold files, {', '.join(COLUMNS)}")
    columns = [content["files"], *(content[name] for name in COLUMNS)]
    if not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        raise ValueError("its columns must be lists of one length")
    if not all(isinstance(name, str) for name in columns[0]):
        raise ValueError("files must be names")
    if not all(type(number) is int and number >= 0 for column in columns[1:] for number in column):
        raise ValueError("sizes, times and lengths must be whole numbers of at least 0")
    return dict(zip(columns[0], zip(*columns[1:], strict=True), strict=True))
