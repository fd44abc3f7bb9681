"""Lhotse's manifests: cuts, or supervisions beside their recordings; JSON lines, usually gzipped.

An utterance is one supervision of a recording that lies in a file. Cuts that exist only while they are read (mixed,
padded, perturbed, piped or held in memory) are refused with the Lhotse call that writes them as files; so are cuts of
several supervisions, whose texts have times of their own.

lhotse.readthedocs.io: Cuts, Recordings, Supervisions
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.data.corpus import CorpusError
from asr.data.readers.base import Entry, NamedSplits
from asr.data.readers.tables import Defect, name_of, read_json_lines
from distributed.ranges import Natural

WHOLE_SECONDS = 1e-3  # a cut that differs from its recording by less is all of it
SAVE = "write files and new cuts of them: CutSet.from_file(cuts).save_audios(folder).to_file(new_cuts)"
TRIM = "make one cut of each: lhotse cut trim-to-supervisions --discard-overlapping cuts new_cuts"


@dataclass(kw_only=True, eq=False)
class LhotseCuts(NamedSplits):
    """Splits made of files of cuts or of supervisions."""

    audio_root: Path | None
    channel: Natural | None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.audio_folder = self.root if self.audio_root is None else Path(self.audio_root)

    def own_parameters(self) -> dict[str, object]:
        return {"audio_root": str(self.audio_folder.absolute()), "channel": self.channel}

    def tables(self, split: str) -> list[Path]:
        """The files of cuts or supervisions; each file of supervisions is followed by the file of its recordings."""
        found = [self.root / part for part in self.splits[split]]
        for table in found:
            if "recordings" in table.name:
                raise CorpusError(f"data.{split}: {table} is of recordings; name the supervisions, or cuts of both")
        tables = [each for table in found for each in (table, recordings_of(table)) if each is not None]
        for table in tables:
            if not table.is_file():
                raise CorpusError(
                    f"data.{split}: there is no {table}; name files of cuts, such as cuts_train.jsonl.gz, or of "
                    "supervisions beside their recordings, relative to data.root"
                )
        return tables

    def entries(self, split: str) -> Iterator[Entry | Defect]:
        for part in self.splits[split]:
            table = self.root / part
            recordings = recordings_of(table)
            cuts = read_json_lines(table) if recordings is None else cuts_of_supervisions(table, recordings)
            for where, cut in cuts:
                yield cut if isinstance(cut, Defect) else read_cut(cut, self.audio_folder, where, self.channel)


def recordings_of(table: Path) -> Path | None:
    """The file of recordings that belongs to a file of supervisions, named as in Lhotse's recipes; None for cuts."""
    if "supervisions" not in table.name:
        return None
    return table.with_name(table.name.replace("supervisions", "recordings"))


def cuts_of_supervisions(supervisions: Path, recordings: Path) -> Iterator[tuple[str, Any]]:
    """The cut that each supervision makes of its recording; lines that are no supervision become Defects."""
    known: dict[str, Any] = {}
    for where, recording in read_json_lines(recordings):
        if isinstance(recording, dict) and isinstance(recording.get("id"), (str, int)):
            if known.setdefault(recording["id"], recording) != recording:
                reason = f"another recording has the id {recording['id']!r}; give every one its own id"
                yield where, Defect(where, str(recording["id"]), reason)
        else:
            yield where, recording if isinstance(recording, Defect) else Defect(where, "", _strange("recording"))
    for where, spoken in read_json_lines(supervisions):
        if not _is_supervision(spoken):
            yield where, spoken if isinstance(spoken, Defect) else Defect(where, "", _strange("supervision"))
        elif spoken["recording_id"] not in known:
            reason = f"{recordings.name} has no recording {spoken['recording_id']!r}; add it or remove the line"
            yield where, Defect(where, str(spoken["id"]), reason)
        else:
            shared = {key: spoken[key] for key in ("id", "start", "duration")}
            own = {"channel": spoken.get("channel", 0), "recording": known[spoken["recording_id"]]}
            yield where, shared | own | {"supervisions": [spoken]}


def _is_supervision(value: Any) -> bool:
    needed = {"id", "recording_id", "start", "duration"}
    return isinstance(value, dict) and needed <= value.keys() and isinstance(value["recording_id"], (str, int))


def read_cut(cut: Any, audio_root: Path, where: str, channel: int | None) -> Entry | Defect:
    """The utterance of a cut; relative paths are relative to ``audio_root``.

    Args:
        channel: the channel, counted from 0, to take from a cut with several channels that names none.
    """
    name = ""
    try:
        name = str(cut["id"])
        if (wrong := unusable_cut(cut) or _channel_defect(cut, channel)) is not None:
            return Defect(where, name, wrong)
        return _entry(cut, audio_root, where, channel)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        return Defect(where, name, f"{_strange('cut')} ({error!r})")


def _strange(kind: str) -> str:
    return f"is no {kind} of Lhotse; write the file anew with its to_file"


def unusable_cut(cut: Mapping[str, Any]) -> str | None:
    """The reason why a cut is not a segment of a file with a text; None if it is one."""
    kind, recording = cut.get("type", "MonoCut"), cut.get("recording")
    if kind == "PaddingCut":
        return "is a PaddingCut, silence that nobody recorded; remove the line"
    if kind == "MixedCut":
        return f"is a MixedCut, whose {len(cut.get('tracks', ()))} tracks are mixed while it is read; {SAVE}"
    if kind not in ("MonoCut", "MultiCut"):
        return f"is a {kind}, and only MonoCut and MultiCut are read; {SAVE}"
    if recording is None:
        return "has no recording, only features perhaps; write cuts with their recordings"
    if recording.get("transforms"):
        return f"is transformed while it is read ({recording['transforms'][0].get('name', '?')}); {SAVE}"
    if other := [source["type"] for source in recording["sources"] if source["type"] != "file"]:
        return f"its recording is a {other[0]}, not a file; {SAVE}"
    supervisions = cut.get("supervisions") or []
    if len(supervisions) > 1:
        return f"has {len(supervisions)} supervisions; {TRIM}"
    if not supervisions or supervisions[0].get("text") is None:
        return "has no transcript; add a supervision with a text or remove the cut"
    if not isinstance(text := supervisions[0]["text"], str):
        return f"its text must be a string, got {text!r}; correct the supervision"
    return None


def _channel_defect(cut: Mapping[str, Any], chosen: int | None) -> str | None:
    wanted = _wanted_channel(cut, chosen)
    there = sorted(channel for source in cut["recording"]["sources"] for channel in source["channels"])
    has = f"has the channel{'s' * (len(there) > 1)} {', '.join(map(str, there))}"
    if wanted is None:
        return f"{has}, and its text is of all; choose one: data.channel={there[0]}, or write cuts of one channel"
    if wanted not in there:
        return f"names channel {wanted}, but its recording {has}; correct the cut or data.channel"
    return None


def _wanted_channel(cut: Mapping[str, Any], chosen: int | None) -> int | None:
    """The cut's only channel, or else its supervision's only one, or else the chosen one."""
    for named in (cut.get("channel", 0), cut["supervisions"][0].get("channel")):
        if isinstance(named, int):
            return named
        if named is not None and len(named) == 1:
            return int(named[0])
    return chosen


def _entry(cut: Mapping[str, Any], audio_root: Path, where: str, channel: int | None) -> Entry:
    recording, (supervision,) = cut["recording"], cut["supervisions"]
    start, duration, wanted = float(cut["start"]), float(cut["duration"]), _wanted_channel(cut, channel)
    source = next(source for source in recording["sources"] if wanted in source["channels"])
    whole = abs(start) < WHOLE_SECONDS and abs(duration - float(recording["duration"])) < WHOLE_SECONDS
    return Entry(
        where=where,
        id=str(cut["id"]),
        audio_filepath=audio_root / source["source"],
        text=supervision["text"],
        speaker=name_of(supervision.get("speaker")),
        start_seconds=None if whole else start,
        end_seconds=start + duration,
        channel=source["channels"].index(wanted) if len(source["channels"]) > 1 else None,
    )
