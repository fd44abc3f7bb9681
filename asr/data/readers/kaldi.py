"""Kaldi data directories: wav.scp, text, utt2spk, and where recordings hold several utterances, segments.

What is read is what Kaldi's own tools read, except that wav.scp must name files: a pipe would run a command of the
corpus, an offset points into an archive, and both are refused with the remedy. One file may hold several recordings,
one in each channel: which, tell a fifth column of segments (0, 1), reco2file_and_channel (A, B or 1, 2) or the ending
of the recording's id (``data.channel_suffixes``), in this order.

kaldi-asr.org/doc/data_prep.html
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from asr.data.corpus import CorpusError
from asr.data.readers.base import Entry, NamedSplits
from asr.data.readers.tables import Defect, Row, Table, read_table
from distributed.errors import UsageError

NEEDED = ("wav.scp", "text")
OPTIONAL = ("utt2spk", "segments", "reco2file_and_channel")
COPY = "Kaldi's wav-copy scp:wav.scp scp:new.scp does all, where new.scp names a file for each id"
TO_THE_END = -1.0  # value of a segment's end that means the end of the recording

_OFFSET = re.compile(r":\d+(\[[\d:,]*\])?$")


@dataclass(frozen=True, slots=True)
class Source:
    """The file and channel that hold the sound of a recording."""

    file: Path
    channel: int | None  # counted from 0; None: the file must have only one
    mono_allowed: bool  # the file may also hold nothing but this recording


class Recordings:
    """Maps recordings to files and channels by wav.scp, reco2file_and_channel and the endings of ids."""

    def __init__(self, wav_scp: Table, files_and_channels: Table, audio_root: Path, channel_suffixes: Sequence[str]):
        self.wav_scp = wav_scp
        self.files_and_channels = files_and_channels
        self.audio_root = audio_root
        self.channel_suffixes = channel_suffixes
        self._uses = Counter(row.value for row in wav_scp.rows.values())

    def find(self, name: str, where: str, utterance_id: str, channel: int | None = None) -> Source | Defect:
        """The source of recording ``name``, which ``where`` asks for; ``channel`` is what segments says of it."""
        file_name, named_channel = name, None
        if (told := self.files_and_channels.rows.get(name)) is not None:
            columns = told.value.split()
            named_channel = _channel_number(columns[1]) if len(columns) == 2 else None
            if named_channel is None:
                reason = (
                    f"expected recording, file and channel (A, B or 1, 2), got {name} {told.value}; correct the line"
                )
                return Defect(told.where, utterance_id, reason)
            file_name = columns[0]
        for number, suffix in enumerate(self.channel_suffixes):
            if told is None and name.endswith(suffix):
                file_name, named_channel = name.removesuffix(suffix), number
        own = name in self.wav_scp.rows
        row = self.wav_scp.rows.get(name if own else file_name)
        if row is None:
            reason = f"{self.wav_scp.path.name} has no recording {name!r}; add a line with its file"
            return Defect(where, utterance_id, reason)
        if (wrong := _unusable(row.value)) is not None:
            return Defect(row.where, utterance_id, wrong)
        mono_allowed = own and self._uses[row.value] == 1
        return Source(self.audio_root / row.value, named_channel if channel is None else channel, mono_allowed)


def _channel_number(name: str) -> int | None:
    """The channel, counted from 0, for a letter or number in reco2file_and_channel; None for any other text."""
    known = {"A": 0, "B": 1, "1": 0, "2": 1}
    return known.get(name.upper())


def _unusable(value: str) -> str | None:
    """The reason why an entry of wav.scp is not a readable file; None if it is one."""
    if not value:
        return "expected a recording and its file, got only one column; correct the line"
    if value.endswith("|") or value.startswith("|"):
        return (
            f"{value!r} is a pipe, and commands of a corpus are not run; run it once into a file and name that ({COPY}; "
            "NIST .sph files that are not compressed are read as they are)"
        )
    if _OFFSET.search(value):
        return f"{value!r} points into an archive; write files once and name them here without :offset ({COPY})"
    return None


@dataclass(kw_only=True, eq=False)
class KaldiCorpus(NamedSplits):
    """Splits made of data directories."""

    audio_root: Path | None
    channel_suffixes: list[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if "" in self.channel_suffixes:
            raise UsageError("data.channel_suffixes has an empty ending, which every id has; remove it")
        self.audio_folder = self.root if self.audio_root is None else Path(self.audio_root)

    def own_parameters(self) -> dict[str, object]:
        return {"audio_root": str(self.audio_folder.absolute()), "channel_suffixes": self.channel_suffixes}

    def tables(self, split: str) -> list[Path]:
        """The files of the directories that are read."""
        return [table for part in self.splits[split] for table in data_directory(self.root / part, f"data.{split}")]

    def entries(self, split: str) -> Iterator[Entry | Defect]:
        for part in self.splits[split]:
            yield from read_data_directory(self.root / part, self.audio_folder, self.channel_suffixes)


def data_directory(folder: Path, key: str) -> list[Path]:
    """The files that are read in a data directory; ``key`` is the configuration key that errors name.

    Raises:
        CorpusError: one that is needed is missing.
    """
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise CorpusError(
            f"{key}: {folder} has no {' and no '.join(missing)}; name Kaldi data directories, relative to data.root"
        )
    return [folder / name for name in (*NEEDED, *OPTIONAL) if (folder / name).is_file()]


def read_data_directory(
    folder: Path, audio_root: Path, channel_suffixes: Sequence[str] = ()
) -> Iterator[Entry | Defect]:
    """The utterances of a data directory, then its unused transcripts as defects.

    Args:
        audio_root: folder that relative paths in wav.scp start from.
        channel_suffixes: endings of recording ids that name the first, second, ... channel of a file.
    """
    tables = {name: _table(folder / name) for name in (*NEEDED, *OPTIONAL)}
    for table in tables.values():
        yield from table.defects
    recordings = Recordings(tables["wav.scp"], tables["reco2file_and_channel"], audio_root, channel_suffixes)
    segmented = (folder / "segments").is_file()
    utterances = tables["segments" if segmented else "wav.scp"].rows
    for name, row in utterances.items():
        text, speaker = tables["text"].rows.get(name), tables["utt2spk"].rows.get(name)
        if text is None:
            yield Defect(row.where, name, f"has no transcript in {folder / 'text'}; add a line or remove the utterance")
        elif speaker is None and tables["utt2spk"].rows:
            yield Defect(row.where, name, f"has no speaker in {folder / 'utt2spk'}; add a line or remove the utterance")
        else:
            read = _segment if segmented else _whole
            yield read(recordings, name, row, text.value, "" if speaker is None else speaker.value)
    for name, row in tables["text"].rows.items():
        if name not in utterances:
            missing = "segments" if segmented else "wav.scp"
            reason = f"has no audio: {missing} does not name it; add a line or remove the transcript"
            yield Defect(row.where, name, reason)


def _table(path: Path) -> Table:
    return read_table(path) if path.is_file() else Table(path, {}, [])


def _whole(recordings: Recordings, name: str, row: Row, text: str, speaker: str) -> Entry | Defect:
    source = recordings.find(name, row.where, name)
    if isinstance(source, Defect):
        return source
    return Entry(row.where, name, source.file, text, speaker, channel=source.channel, mono_allowed=source.mono_allowed)


def _segment(recordings: Recordings, name: str, row: Row, text: str, speaker: str) -> Entry | Defect:
    columns = row.value.split()
    try:
        recording, start, end = columns[0], float(columns[1]), float(columns[2])
        (channel,) = map(int, columns[3:]) if len(columns) > 3 else (None,)
    except (IndexError, ValueError):
        reason = f"expected utterance, recording, start and end in seconds, got {name} {row.value}; correct the line"
        return Defect(row.where, name, reason)
    source = recordings.find(recording, row.where, name, channel)
    if isinstance(source, Defect):
        return source
    return Entry(
        where=row.where,
        id=name,
        audio_filepath=source.file,
        text=text,
        speaker=speaker,
        start_seconds=start,
        end_seconds=None if end == TO_THE_END else end,
        channel=source.channel,
        mono_allowed=source.mono_allowed and channel is None,
    )
