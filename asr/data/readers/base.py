"""Base of all readers: turns the entries of tables into manifests that are checked against the audio.

A reader turns each table into ``Entry`` and ``Defect`` objects. Here the headers of the audio are read, durations
filled in and what cannot be used is refused under ``data.on_bad``. The manifests are written once, into a folder of
``data.cache`` named by a hash of the settings and of the size and time of every table; ``refused.jsonl`` beside them
lists what was left out, ``removed.json`` counts the markers that were taken out of the texts.
"""

import dataclasses
import json
import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.data.audio import Header, header_defect
from asr.data.corpus import Corpus, CorpusError, content_hash
from asr.data.manifest import Utterance, write_manifest
from asr.data.readers.markers import checked_markers, split_markers
from asr.data.readers.tables import Defect, read_json_lines
from asr.data.screening import OnBad, read_headers
from asr.data.tokenizer import Case, normalise_text
from asr.foreign.json_text import read_json
from distributed.errors import UsageError
from distributed.ranges import Count

FORMAT = 2  # raised whenever the same tables and settings would give other manifests
REFUSED_FILE = "refused.jsonl"
REMOVED_FILE = "removed.json"
SHOWN = 3  # refused utterances in the log; all are in REFUSED_FILE

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """An utterance as a table describes it, before the audio's header has been read."""

    where: str  # file:line
    id: str
    audio_filepath: Path
    text: str
    speaker: str
    start_seconds: float | None = None  # None: the utterance is the whole file
    end_seconds: float | None = None  # None: the file's end
    channel: int | None = None  # counted from 0; None: the file must have only one
    mono_allowed: bool = False  # the file may also hold nothing but that channel


@dataclass(frozen=True, slots=True)
class Settled:
    """Outcome for the entries of a split: each entry has become an utterance or a defect."""

    utterances: list[Utterance]
    defects: list[Defect]
    removed: Counter[str]  # markers taken out of the texts, also of those that held nothing else


def settle(
    entries: Iterable[Entry | Defect], sample_rate: int, case: Case, markers: Set[str], *, resample: bool
) -> Settled:
    """Sort entries into utterances that agree with their audio, ``markers`` removed from their texts, and defects."""
    entries = list(entries)
    headers = read_headers({entry.audio_filepath for entry in entries if isinstance(entry, Entry)})
    settled = Settled([], [], Counter())
    where_of: dict[str, str] = {}
    for entry in entries:
        if isinstance(entry, Defect):
            settled.defects.append(entry)
            continue
        text, removed = split_markers(normalise_text(entry.text, case), markers)
        header = headers[entry.audio_filepath]
        found = _settle_one(entry, header, text, removed, where_of)
        if isinstance(found, Utterance):
            assert isinstance(header, Header)
            wrong = header_defect(found, header, sample_rate, resample=resample)
            found = found if wrong is None else Defect(entry.where, entry.id, f"{entry.audio_filepath}: {wrong}")
        if isinstance(found, Defect):
            settled.defects.append(found)
        else:
            settled.utterances.append(found)
            where_of[found.id] = entry.where
        if isinstance(found, Utterance) or found.by_choice:
            settled.removed.update(removed)
    return settled


def _settle_one(
    entry: Entry,
    header: Header | str,
    text: str,
    removed: Sequence[str],
    where_of: Mapping[str, str],
) -> Utterance | Defect:
    def defect(reason: str) -> Defect:
        return Defect(entry.where, entry.id, reason)

    if entry.id in where_of:
        return defect(f"the id {entry.id!r} is already that of {where_of[entry.id]}; give every utterance its own id")
    if not text and removed:
        reason = f"holds nothing but {' '.join(removed)}, which data.remove takes away"
        return Defect(entry.where, entry.id, reason, by_choice=True)
    if not text:
        return defect("has no transcript; write its text or remove the line")
    if isinstance(header, str):
        return defect(f"{entry.audio_filepath}: {header}")
    file_seconds = header.num_samples / header.sample_rate
    start, end = entry.start_seconds, entry.end_seconds
    last = file_seconds if end is None else end
    if start is not None and not 0 <= start < last:
        return defect(
            f"the segment from {start:g} s to {last:g} s must begin at 0 s or later and end after its beginning; "
            "correct its times"
        )
    return Utterance(
        id=entry.id,
        audio_filepath=entry.audio_filepath,
        duration=round(last - (start or 0.0), 6),
        text=text,
        speaker=entry.speaker,
        offset=start,
        channel=None if entry.mono_allowed and header.num_channels == 1 else entry.channel,
    )


@dataclass(kw_only=True, eq=False)
class TableCorpus(Corpus):
    """Base of the readers, whose fields are their settings; each says which tables a split has and how they are read."""

    root: Path
    cache: Path
    sample_rate: Count
    on_bad: OnBad
    resample: bool
    case: Case
    remove: list[str]  # markers

    def __post_init__(self) -> None:
        super().__init__(root=self.root, sample_rate=self.sample_rate, on_bad=self.on_bad, resample=self.resample)
        self.cache = Path(self.cache)
        self.markers = checked_markers(self.remove)
        self.splits = {split: [Path(part) for part in parts] for split, parts in self.parts().items() if parts}
        self._logged = False
        if not self.splits:
            raise UsageError(f"data has no split: {', '.join(self.parts())} are all empty; name what they are made of")

    @abstractmethod
    def parts(self) -> Mapping[str, Sequence[Path]]:
        """The parts of train, dev and test, below ``root``; a split without parts is left out."""

    def prepare(self) -> dict[str, Path]:
        """Write the manifests under ``cache`` unless they are there; it takes as long as reading the header of every file."""
        if not self.root.is_dir():
            raise CorpusError(f"data.root={self.root}: there is no such folder; set data.root= to the corpus")
        tables = [table for split in self.splits for table in self.tables(split)]
        parameters = {
            "corpus": type(self).__name__,
            "format": FORMAT,
            "root": str(self.root.absolute()),
            "splits": {split: list(map(str, parts)) for split, parts in self.splits.items()},
            "sample_rate": self.sample_rate,
            "on_bad": self.on_bad,
            "resample": self.resample,
            "case": self.case,
            "remove": sorted(self.markers),
            "tables": content_hash(tables=[_stamp(table) for table in tables]),
            **self.own_parameters(),
        }

        def make(folder: Path) -> None:
            logger.info("reading %d tables of %s", len(tables), self.root)
            self._write(folder)
            (folder / "corpus.json").write_text(json.dumps(parameters, indent=2) + "\n", encoding="utf-8")

        folder = self.cache / content_hash(**parameters)
        self.make_once(folder, make, key="data.cache")
        self._log_left_out(folder)
        return {split: folder / f"{split}.jsonl" for split in self.splits}

    def _log_left_out(self, folder: Path) -> None:
        """Log the utterances left out, even if the manifests existed before; once, however often ``prepare`` runs."""
        for split in () if self._logged else self.splits:
            left_out = [defect for defect in read_refused(folder, split) if not defect.by_choice]
            if left_out:
                count = f"{len(left_out)} utterance{'s' * (len(left_out) > 1)}"
                again = "once their audio is repaired, delete that folder to have them checked again"
                logger.warning("%s: left out %s, listed in %s; %s", split, count, folder / REFUSED_FILE, again)
            for defect in left_out[:SHOWN]:
                logger.warning("  %s", defect)
        self._logged = True

    def _write(self, folder: Path) -> None:
        removed: dict[str, Counter[str]] = {}
        with (folder / REFUSED_FILE).open("w", encoding="utf-8") as file:
            for split in self.splits:
                settled = settle(self.entries(split), self.sample_rate, self.case, self.markers, resample=self.resample)
                apply_policy(split, len(settled.utterances), settled.defects, self.on_bad)
                write_manifest(folder / f"{split}.jsonl", settled.utterances)
                removed[split] = settled.removed
                for defect in settled.defects:
                    record = {"split": split} | dataclasses.asdict(defect)
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
        (folder / REMOVED_FILE).write_text(json.dumps(removed, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    def own_parameters(self) -> dict[str, Any]:
        """The parameters that determine the manifests, beside the tables and the settings of this base."""
        return {}

    @abstractmethod
    def tables(self, split: str) -> list[Path]:
        """The files that a split is described by; a change of any of them is another folder of manifests.

        Raises:
            CorpusError: a part of the split is not where the configuration says.
        """

    @abstractmethod
    def entries(self, split: str) -> Iterator[Entry | Defect]:
        """The entries in the tables of a split, one for each utterance."""


@dataclass(kw_only=True, eq=False)
class NamedSplits(TableCorpus):
    """Base of the readers whose settings name the parts of each split."""

    train: list[Path]
    dev: list[Path]
    test: list[Path]

    def parts(self) -> dict[str, list[Path]]:
        return {"train": self.train, "dev": self.dev, "test": self.test}


def _stamp(table: Path) -> tuple[str, int, int]:
    status = table.stat()
    return str(table), status.st_size, status.st_mtime_ns


def read_refused(folder: Path, split: str) -> list[Defect]:
    """The defects that a reader left out of a split when it wrote the manifests in ``folder``."""
    records = [record for _, record in read_json_lines(folder / REFUSED_FILE)]
    try:
        return [
            Defect(r["where"], r["utterance_id"], r["reason"], r["by_choice"]) for r in records if r["split"] == split
        ]
    except (KeyError, TypeError):
        raise CorpusError(f"{folder / REFUSED_FILE}: damaged; delete the folder, which is then made anew") from None


def read_removed(folder: Path, split: str) -> dict[str, int]:
    """The number of times that each marker was removed from the texts of a split, most frequent first."""
    removed = read_json(folder / REMOVED_FILE).get(split)
    if not isinstance(removed, dict) or any(type(count) is not int for count in removed.values()):
        raise CorpusError(f"{folder / REMOVED_FILE}: damaged; delete the folder, which is then made anew")
    return dict(sorted(removed.items(), key=lambda item: (-item[1], item[0])))


def apply_policy(split: str, usable: int, defects: Sequence[Defect], on_bad: OnBad) -> None:
    """Refuse a split with any defect under ``stop``, and a split without any utterance under ``skip``.

    Raises:
        CorpusError: with the first defect and how many there are.
    """
    total = usable + len(defects)
    if total == 0:
        raise CorpusError(f"data.{split}: its tables name no utterance; correct data.root or data.{split}")
    wrong = [defect for defect in defects if not defect.by_choice]
    if wrong and on_bad == "stop":
        count = f"{len(wrong)} of {total} utterances of {split} are unusable; data.on_bad=skip leaves them out"
        raise CorpusError(f"{wrong[0]} [{count}]")
    if not usable:
        raise CorpusError(f"{(wrong or defects)[0]} [all {total} utterances of {split} are unusable]")
