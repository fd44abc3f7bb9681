"""NeMo's manifests: JSON lines with audio_filepath, duration and text, and its names for where they are.

``data=manifests`` reads the same lines, but takes a manifest as it is; here several make a split, lines are checked
one by one, texts folded, and the segments of one file, which have no id in NeMo, get one from their times.

docs.nvidia.com/nemo-framework: Preparing Custom ASR Data
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from asr.data.corpus import CorpusError
from asr.data.manifest import ManifestError, parse_record
from asr.data.readers.base import Entry, TableCorpus
from asr.data.readers.tables import Defect, read_lines
from asr.data.screening import OnBad
from asr.data.tokenizer import Case
from distributed.ranges import Count

Source = dict[str, Path | list[Path] | None]


class NemoCorpus(TableCorpus):
    """Splits made of manifests: ``data.train_ds.manifest_filepath``, a path, several, or several joined by commas."""

    def __init__(
        self,
        *,
        root: Path,
        cache: Path,
        sample_rate: Count,
        on_bad: OnBad,
        resample: bool,
        case: Case,
        train_ds: Source,
        validation_ds: Source,
        test_ds: Source,
    ) -> None:
        splits = {
            "train": manifest_filepaths("train_ds", train_ds),
            "dev": manifest_filepaths("validation_ds", validation_ds),
            "test": manifest_filepaths("test_ds", test_ds),
        }
        super().__init__(
            root=root,
            cache=cache,
            sample_rate=sample_rate,
            on_bad=on_bad,
            resample=resample,
            case=case,
            splits=splits,
        )

    def tables(self, split: str) -> list[Path]:
        """The manifests."""
        found = [self.root / part for part in self.splits[split]]
        for manifest in found:
            if not manifest.is_file():
                raise CorpusError(
                    f"manifest_filepath={manifest}: there is no such file; paths are relative to data.root"
                )
        return found

    def entries(self, split: str) -> Iterator[Entry | Defect]:
        for manifest in self.tables(split):
            for where, line in read_lines(manifest):
                yield read_line(line, manifest.parent, where)


def manifest_filepaths(section: str, source: Mapping[str, Path | list[Path] | None]) -> list[Path]:
    """The manifests that a section names; none for null.

    Raises:
        ValueError: the section has other keys.
    """
    if list(source) != ["manifest_filepath"]:
        raise ValueError(f"data.{section} must have manifest_filepath alone, got {', '.join(source) or 'nothing'}")
    named = source["manifest_filepath"]
    if named is None:
        return []
    return [Path(each) for each in (named if isinstance(named, list) else str(named).split(","))]


def read_line(line: str, folder: Path, where: str) -> Entry | Defect:
    """The utterance of one line; relative paths are relative to ``folder``, the manifest's own."""
    try:
        record = json.loads(line)
        utterance = parse_record(record, folder, where)
    except json.JSONDecodeError as error:
        return Defect(where, "", f"not JSON: {error}; write one object per line")
    except ManifestError as error:
        return Defect(where, "", str(error).removeprefix(f"{where}: "))
    if "shard_id" in record:
        reason = "is in a tar archive (shard_id); unpack the archives and name the manifest of their files"
        return Defect(where, utterance.id, reason)
    start = utterance.offset
    name = utterance.id
    if start is not None and record.get("id") is None:
        name = f"{name}-{round(1000 * start):07d}-{round(1000 * (start + utterance.duration)):07d}"
    return Entry(
        where=where,
        id=name,
        audio_filepath=utterance.audio_filepath,
        text=utterance.text,
        speaker=utterance.speaker,
        start_seconds=start,
        end_seconds=utterance.duration + (start or 0.0),
        channel=utterance.channel,
    )
