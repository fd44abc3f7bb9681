"""manifest.json of a checkpoint: a record that carries its own SHA-256 and the number of its format."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asr.foreign.files import ForeignError
from asr.foreign.json_text import read_json
from asr.runs.files import write_atomically
from distributed.errors import UserError

FORMAT = 5
READABLE = (3, 4, FORMAT)  # format 3 does not contain the settings of the run; 3 and 4 have nothing stored once for all
MANIFEST = "manifest.json"


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be written or read; the message names the file and the remedy."""


class FormatError(CheckpointError):
    """A checkpoint of another version of this program: not damaged, so never passed over."""


def write_manifest(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a checkpoint beside its files."""
    full = {"format": FORMAT, **record}
    write_atomically(folder / MANIFEST, json.dumps({**full, "sha256": _digest(full)}, indent=2))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the record of a checkpoint.

    Raises:
        FormatError: it was written by another version of this program.
        CheckpointError: it is missing, altered or not one of ours.
    """
    path = folder / MANIFEST
    try:
        record = read_json(path)
    except ForeignError as error:
        raise CheckpointError(f"{path}: not a readable checkpoint manifest: {error.reason}") from error
    if "format" not in record:
        raise CheckpointError(f"{path}: not a readable checkpoint manifest: it has no format")
    if record["format"] not in READABLE:
        raise FormatError(
            f"{path}: format {str(record['format'])[:80]}, this version reads {', '.join(map(str, READABLE))}: "
            "go on with the version that wrote it, or choose another name="
        )
    digest = record.pop("sha256", None)
    if digest != _digest(record):
        raise CheckpointError(f"{path}: altered (SHA-256 differs)")
    del record["format"]
    return record


def _digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record's JSON text with sorted keys, which does not depend on the layout of the file."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def one_line(error: Exception) -> str:
    """An error's message without line breaks, preceded by its type unless it is an OSError or RuntimeError.

    Where torch could not write a file, the operating system's message is taken instead of torch's.
    """
    cause: BaseException | None = None if isinstance(error, UserError) else error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return f"{cause.strerror}{f': {cause.filename}' if cause.filename else ''}"
        cause = cause.__cause__ or cause.__context__
    message = " ".join(str(error).split())
    return message if message and isinstance(error, OSError | RuntimeError) else f"{type(error).__name__}: {message}"
