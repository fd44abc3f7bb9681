"""Lhotse's cuts: JSON lines, usually gzipped, each a MonoCut with one supervision and a recording in a file.

Cuts that are made while they are read (mixed, padded, perturbed, piped or held in memory) are refused with the Lhotse
call that writes them as files; so are cuts of several supervisions, whose texts have times of their own.

lhotse.readthedocs.io: Cuts, Recordings
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from asr.data.corpus import CorpusError
from asr.data.readers.base import Entry, TableCorpus
from asr.data.readers.tables import Defect, read_lines
from asr.data.screening import OnBad
from asr.data.tokenizer import Case
from distributed.ranges import Count

WHOLE_SECONDS = 1e-3  # a cut that differs from its recording by less is all of it
SAVE = "write it as a file: CutSet.save_audios(folder)"


class LhotseCuts(TableCorpus):
    """Splits made of ``*.jsonl`` or ``*.jsonl.gz`` files of cuts."""

    def __init__(
        self,
        *,
        root: Path,
        cache: Path,
        sample_rate: Count,
        on_bad: OnBad,
        resample: bool,
        case: Case,
        audio_root: Path | None,
        train: list[Path],
        dev: list[Path],
        test: list[Path],
    ) -> None:
        splits = {"train": train, "dev": dev, "test": test}
        super().__init__(
            root=root,
            cache=cache,
            sample_rate=sample_rate,
            on_bad=on_bad,
            resample=resample,
            case=case,
            splits=splits,
        )
        self.audio_root = self.root if audio_root is None else Path(audio_root)

    def own_parameters(self) -> dict[str, object]:
        return {"audio_root": str(self.audio_root.absolute())}

    def tables(self, split: str) -> list[Path]:
        """The files of cuts."""
        found = [self.root / part for part in self.splits[split]]
        for cuts in found:
            if not cuts.is_file():
                raise CorpusError(
                    f"data.{split}: there is no {cuts}; name files of cuts, such as cuts_train.jsonl.gz, relative to data.root"
                )
        return found

    def entries(self, split: str) -> Iterator[Entry | Defect]:
        for cuts in self.tables(split):
            for where, line in read_lines(cuts):
                yield read_cut(line, self.audio_root, where)


def read_cut(line: str, audio_root: Path, where: str) -> Entry | Defect:
    """The utterance of one cut; relative paths are relative to ``audio_root``."""
    name = ""
    try:
        cut = json.loads(line)
        name = str(cut["id"])
        if (wrong := unusable_cut(cut)) is not None:
            return Defect(where, name, wrong)
        return _entry(cut, audio_root, where)
    except json.JSONDecodeError as error:
        return Defect(where, name, f"not JSON: {error}; write cuts anew with CutSet.to_file")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Defect(where, name, f"is not a cut of Lhotse ({error!r}); write cuts anew with CutSet.to_file")


def unusable_cut(cut: Mapping[str, Any]) -> str | None:
    """Why a cut is no segment of a file with a text, or None."""
    if (kind := cut.get("type", "MonoCut")) != "MonoCut":
        return f"is a {kind}, and only MonoCut is read; {SAVE}"
    if (recording := cut.get("recording")) is None:
        return "has no recording, only features perhaps; write cuts with their recordings"
    if recording.get("transforms"):
        return f"is transformed while it is read ({recording['transforms'][0].get('name', '?')}); {SAVE}"
    if other := [source["type"] for source in recording["sources"] if source["type"] != "file"]:
        return f"its recording is a {other[0]}, not a file; {SAVE}"
    if not any(cut.get("channel", 0) in source["channels"] for source in recording["sources"]):
        return f"names channel {cut.get('channel', 0)}, which its recording does not have; correct the cut"
    supervisions = cut.get("supervisions") or []
    if len(supervisions) > 1:
        return f"has {len(supervisions)} supervisions; make one cut of each: CutSet.trim_to_supervisions()"
    if not supervisions or supervisions[0].get("text") is None:
        return "has no transcript; add a supervision with a text or remove the cut"
    return None


def _entry(cut: Mapping[str, Any], audio_root: Path, where: str) -> Entry:
    recording, (supervision,) = cut["recording"], cut["supervisions"]
    start, duration, wanted = float(cut["start"]), float(cut["duration"]), cut.get("channel", 0)
    source = next(source for source in recording["sources"] if wanted in source["channels"])
    whole = abs(start) < WHOLE_SECONDS and abs(duration - float(recording["duration"])) < WHOLE_SECONDS
    return Entry(
        where=where,
        id=str(cut["id"]),
        audio_filepath=audio_root / source["source"],
        text=supervision["text"],
        speaker=str(supervision.get("speaker") or ""),
        start_seconds=None if whole else start,
        end_seconds=start + duration,
        channel=source["channels"].index(wanted) if len(source["channels"]) > 1 else None,
    )
