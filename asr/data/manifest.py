"""Manifests: one JSON object per line and utterance, in the layout NeMo made common.

    {"id": "...", "audio_filepath": "...", "duration": 1.25, "text": "...", "speaker": "...", "offset": 0.0}

``id``, ``speaker`` and ``offset`` may be missing: the id is then the audio file's stem, the speaker empty, the offset
0 s. Relative paths are relative to the manifest's own folder, so that a corpus can be moved as a whole.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class ManifestError(ValueError):
    """A manifest that cannot be read; the message names the file, the line and the remedy."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance of a corpus, as a manifest describes it."""

    id: str
    audio_filepath: Path
    duration: float  # seconds
    text: str
    speaker: str = ""
    offset: float = 0.0  # seconds into the file


def _parse(record: Any, folder: Path, where: str) -> Utterance:
    if not isinstance(record, dict):
        raise ManifestError(f"{where}: expected a JSON object, got {type(record).__name__}")
    missing = [key for key in ("audio_filepath", "duration", "text") if key not in record]
    if missing:
        raise ManifestError(
            f"{where}: no {' and no '.join(missing)}; every line needs audio_filepath, duration and text"
        )
    audio = Path(record["audio_filepath"])
    try:
        duration, offset = float(record["duration"]), float(record.get("offset", 0.0))
    except (TypeError, ValueError) as error:
        raise ManifestError(f"{where}: duration and offset must be seconds: {error}") from None
    return Utterance(
        id=str(record.get("id", audio.stem)),
        audio_filepath=audio if audio.is_absolute() else folder / audio,
        duration=duration,
        text=str(record["text"]),
        speaker=str(record.get("speaker", "")),
        offset=offset,
    )


def read_manifest(path: Path) -> list[Utterance]:
    """All utterances of a manifest, in its order.

    Raises:
        ManifestError: the file is missing, empty, or a line is not an utterance.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot read the manifest: {error}") from None
    utterances = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ManifestError(f"{where}: not JSON: {error}") from None
        utterances.append(_parse(record, path.parent, where))
    if not utterances:
        raise ManifestError(f"{path}: the manifest is empty; write one JSON object per utterance")
    return utterances


def write_manifest(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest; audio below the manifest's folder is named relative to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for utterance in utterances:
            audio = utterance.audio_filepath
            if audio.is_relative_to(path.parent):
                audio = audio.relative_to(path.parent)
            record = {
                "id": utterance.id,
                "audio_filepath": str(audio),
                "duration": utterance.duration,
                "text": utterance.text,
                "speaker": utterance.speaker,
                "offset": utterance.offset,
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
