"""NeMo's manifests: JSON lines with audio_filepath, duration and text, and its names for where they are.

``data=manifests`` reads the same lines, but takes a manifest as it is; here several make a split, lines are checked
one by one, texts folded, NeMo's other keys understood (audio_filename, text_filepath, normalized_text), and what has no
id, as in NeMo, gets one from its file and times.

docs.nvidia.com/nemo-framework: Preparing Custom ASR Data; nemo/collections/common/parts/preprocessing/manifest.py
"""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.data.corpus import CorpusError
from asr.data.manifest import ManifestError, Utterance, parse_record
from asr.data.readers.base import Entry, TableCorpus
from asr.data.readers.tables import Defect, read_json_lines
from asr.foreign.files import TRANSCRIPT, ForeignError, read_text
from distributed.errors import UsageError

Source = dict[str, Path | list[Path] | bool | float | None]  # NeMo's section; of its keys we take manifest_filepath
UNPACK = "audio in tar archives is not read; unpack it and name a manifest of its files"


@dataclass(kw_only=True, eq=False)
class NemoCorpus(TableCorpus):
    """Splits made of manifests: ``data.train_ds.manifest_filepath``, a path, several, or several joined by commas."""

    audio_root: Path | None
    train_ds: Source
    validation_ds: Source
    test_ds: Source

    def parts(self) -> dict[str, list[Path]]:
        """The manifests of each section."""
        return {
            "train": manifest_filepaths("train_ds", self.train_ds),
            "dev": manifest_filepaths("validation_ds", self.validation_ds),
            "test": manifest_filepaths("test_ds", self.test_ds),
        }

    def own_parameters(self) -> dict[str, object]:
        return {"audio_root": None if self.audio_root is None else str(Path(self.audio_root).absolute())}

    def tables(self, split: str) -> list[Path]:
        """The manifests."""
        found = [self.root / part for part in self.splits[split]]
        for manifest in found:
            if not manifest.is_file():
                remedy = (
                    UNPACK if "_OP_" in manifest.name or "{" in manifest.name else "paths are relative to data.root"
                )
                raise CorpusError(f"manifest_filepath={manifest}: there is no such file; {remedy}")
        return found

    def entries(self, split: str) -> Iterator[Entry | Defect]:
        found: list[Entry | Defect] = []
        for manifest in self.tables(split):
            folder = manifest.parent if self.audio_root is None else Path(self.audio_root)
            own = (folder, manifest.parent, self.root)
            for where, record in read_json_lines(manifest):
                found.append(record if isinstance(record, Defect) else read_record(record, folder, where, own))
        return iter(with_folders(found))


def manifest_filepaths(section: str, source: Mapping[str, Any]) -> list[Path]:
    """The manifest files that a section names; an empty list for null.

    Raises:
        ValueError: the section has other keys.
    """
    if list(source) != ["manifest_filepath"]:
        remedy = UNPACK if any("tarred" in key for key in source) else "remove the others"
        given = ", ".join(source) or "nothing"
        raise UsageError(f"data.{section} must have manifest_filepath alone, got {given}; {remedy}")
    named = source["manifest_filepath"]
    if named is None:
        return []
    return [Path(each) for each in (named if isinstance(named, list) else str(named).split(","))]


@dataclass(frozen=True, slots=True)
class NamedByFile(Entry):
    """An utterance whose manifest gives no id; ``id`` begins with the stem of its file."""


def read_record(record: Any, folder: Path, where: str, own: Sequence[Path]) -> Entry | Defect:
    """The utterance of one line; relative paths are relative to ``folder``, files of texts lie in one of ``own``."""
    try:
        utterance = parse_record(standard_keys(record, folder, own), folder, where)
    except ManifestError as error:
        return Defect(where, "", str(error).removeprefix(f"{where}: "))
    except ForeignError as error:
        return Defect(where, "", f"its text_filepath cannot be read: {error}; correct it or write the text")
    if "shard_id" in record:
        return Defect(where, utterance.id, f"has a shard_id: {UNPACK}")
    start, named = utterance.offset, record.get("id") is not None
    return (Entry if named else NamedByFile)(
        where=where,
        id=utterance.id if named else f"{utterance.id}{_times(utterance)}",
        audio_filepath=utterance.audio_filepath,
        text=utterance.text,
        speaker=utterance.speaker,
        start_seconds=start,
        end_seconds=utterance.duration + (start or 0.0),
        channel=utterance.channel,
    )


def standard_keys(record: Any, folder: Path, own: Sequence[Path]) -> Any:
    """The record with audio_filepath and text, where NeMo finds them under its other keys.

    Raises:
        ForeignError: the file of the text cannot be read, or lies in none of the folders ``own``.
    """
    if not isinstance(record, dict):
        return record
    standard = dict(record)
    if "audio_filename" in record:
        standard.setdefault("audio_filepath", record["audio_filename"])
    if "text" not in record and isinstance(record.get("text_filepath"), str):
        standard["text"] = _text_of(folder / record["text_filepath"], own)
    elif "normalized_text" in record:
        standard.setdefault("text", record["normalized_text"])
    return standard


def _text_of(file: Path, own: Sequence[Path]) -> str:
    """Read a text from a file of the corpus; other files are refused, lest a foreign manifest copy them into ours."""
    absolute, *folders = (Path(os.path.abspath(each)) for each in (file, *own))  # without '..'; links as they are
    if not any(absolute.is_relative_to(folder) for folder in folders):
        raise ForeignError(
            file, f"lies outside {' and '.join(map(str, dict.fromkeys(own)))}; set data.root to a folder around it"
        )
    return read_text(file, TRANSCRIPT)


def _times(utterance: Utterance) -> str:
    """The suffix that distinguishes the segments of a file: begin and end in ms; empty for a whole file."""
    if utterance.offset is None:
        return ""
    return f"-{round(1000 * utterance.offset):07d}-{round(1000 * (utterance.offset + utterance.duration)):07d}"


def with_folders(entries: Sequence[Entry | Defect]) -> list[Entry | Defect]:
    """The entries; where different files share a stem, the ids made from it get the folder's name in front."""
    files: defaultdict[str, set[Path]] = defaultdict(set)
    for entry in entries:
        if isinstance(entry, NamedByFile):
            files[entry.audio_filepath.stem].add(entry.audio_filepath)
    return [
        dataclasses.replace(entry, id=f"{entry.audio_filepath.parent.name}-{entry.id}")
        if isinstance(entry, NamedByFile) and len(files[entry.audio_filepath.stem]) > 1
        else entry
        for entry in entries
    ]
