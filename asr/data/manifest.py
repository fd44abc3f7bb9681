"""Manifests: one JSON object per line and utterance, in the layout NeMo made common.

    {"id": "...", "audio_filepath": "...", "duration": 1.25, "text": "...", "speaker": "...", "offset": 0.0, "channel": 0}

``id``, ``speaker``, ``offset`` and ``channel`` may be missing: the id is then the audio file's stem, the speaker empty,
the utterance is the whole file, and the file has one channel. With an ``offset``, be it 0, it is the segment of that
duration. Relative paths are relative to the manifest's own folder, so that a corpus can be moved as a whole.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.foreign.files import TABLE, ForeignError, read_lines
from asr.foreign.json_text import parse_json
from distributed.errors import UsageError

MANIFEST_SUFFIXES = (".jsonl", ".json")  # by which a manifest's path is told from other names


class ManifestError(UsageError):
    """A manifest that cannot be read; the message names the file, the line and the remedy."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance of a corpus, as a manifest describes it."""

    id: str
    audio_filepath: Path
    duration: float  # seconds
    text: str
    speaker: str = ""
    offset: float | None = None  # seconds into the file where the segment starts; None: the whole file
    channel: int | None = None  # channel of the file, counted from 0; None: the file has only one


def parse_record(record: Any, folder: Path, where: str, *, text_needed: bool = True) -> Utterance:
    """The utterance that one line describes; relative paths are relative to ``folder``, errors begin with ``where``.

    Lines of noise recordings need no text.

    Raises:
        ManifestError: the line is not an utterance.
    """
    if not isinstance(record, dict):
        raise ManifestError(f"{where}: expected a JSON object, got {type(record).__name__}")
    needed = ["audio_filepath", "duration", *(["text"] if text_needed else [])]
    missing = [key for key in needed if key not in record]
    if missing:
        *others, last = needed
        raise ManifestError(f"{where}: no {' and no '.join(missing)}; every line needs {', '.join(others)} and {last}")
    for key in ("audio_filepath", "text"):
        if not isinstance(record.get(key, ""), str):
            raise ManifestError(f"{where}: {key} must be a string, got {record[key]!r}")
    audio, offset = Path(record["audio_filepath"]), record.get("offset")
    if (channel := record.get("channel")) is not None and (type(channel) is not int or channel < 0):
        raise ManifestError(f"{where}: channel must be a whole number counted from 0, got {channel!r}")
    return Utterance(
        id=str(audio.stem if record.get("id") is None else record["id"]),
        audio_filepath=audio if audio.is_absolute() else folder / audio,
        duration=_seconds(record["duration"], "duration", where),
        text=record.get("text", ""),
        speaker="" if record.get("speaker") is None else str(record["speaker"]),
        offset=None if offset is None else _seconds(offset, "offset", where),
        channel=channel,
    )


def _seconds(value: Any, key: str, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ManifestError(f"{where}: {key} must be a number of seconds, got {value!r}") from None


def read_manifest(path: Path, *, text_needed: bool = True) -> list[Utterance]:
    """All utterances of a manifest, in its order; recordings of noise need no text.

    Raises:
        ManifestError: the file is missing, empty, or a line is not an utterance.
    """
    utterances = []
    for where, line in _lines(path):
        try:
            record = parse_json(line)
        except ValueError as error:
            raise ManifestError(f"{where}: {error}") from None
        utterances.append(parse_record(record, path.parent, where, text_needed=text_needed))
    if not utterances:
        raise ManifestError(f"{path}: the manifest is empty; write one JSON object per utterance")
    return utterances


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """``file:line`` and content of every line that is not blank."""
    try:
        for number, line in read_lines(path, TABLE):
            if line.strip():
                yield f"{path}:{number}", line
    except ForeignError as error:
        raise ManifestError(f"{error}; correct the path or write the manifest anew") from None


def write_manifest(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest; audio below the manifest's folder is named relative to it, other audio by its full path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent.absolute()
    with path.open("w", encoding="utf-8") as file:
        for utterance in utterances:
            file.write(json.dumps(_record(utterance, folder), ensure_ascii=False) + "\n")


def _record(utterance: Utterance, folder: Path) -> dict[str, Any]:
    audio = utterance.audio_filepath.absolute()
    record = {
        "id": utterance.id,
        "audio_filepath": str(audio.relative_to(folder) if audio.is_relative_to(folder) else audio),
        "duration": utterance.duration,
        "text": utterance.text,
        "speaker": utterance.speaker,
    }
    optional = {"offset": utterance.offset, "channel": utterance.channel}
    return record | {key: value for key, value in optional.items() if value is not None}
