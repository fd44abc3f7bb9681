"""Utterances that a run leaves out: counted once each, listed with file and reason, whatever found them.

refused/screening.jsonl    utterances refused before training for their headers or texts, by split (learner 0)
refused/<learner>.jsonl    utterances refused while loading, once each, with the samples processed by then
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from asr.data.audio import BadUtterance
from asr.data.screening import Refusal
from asr.runs.appended_rows import keep, read_appended
from asr.runs.files import write_atomically
from asr.runs.metrics import Row
from asr.runs.run_folder import RunFolder

log = logging.getLogger(__name__)


def write_screening(folder: Path, refused: Mapping[str, Sequence[Refusal]]) -> None:
    """Write the list of utterances that the screening of each split refused; no file where it refused none."""
    lines = [
        json.dumps({"split": split, "id": each.utterance_id, "file": str(each.file), "reason": each.reason})
        for split, refusals in refused.items()
        for each in refusals
    ]
    if lines:
        path = RunFolder(folder).screening
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, "\n".join(lines) + "\n")


class Refusals:
    """Counts the training utterances left out: ``screened`` before training, and one learner's while loading."""

    def __init__(self, folder: Path, learner: int, screened: int) -> None:
        self.path = RunFolder(folder).refused_of(learner)
        self.screened = screened
        self.loading: set[str] = set()

    @property
    def total(self) -> int:
        """Number of distinct utterances left out, as far as this learner knows."""
        return self.screened + len(self.loading)

    def start(self, samples: int) -> None:
        """Restore the refusals of the first ``samples`` samples; damaged lines are set aside."""
        if self.path.is_file():
            lines = read_appended(self.path, _defect)
            kept = [(line, row) for line, row in lines.rows if row["samples"] <= samples]
            keep(lines, [line for line, _ in kept])
            self.loading = {row["id"] for _, row in kept}

    def add(self, refused: Iterable[BadUtterance], samples: int) -> None:
        """Record the utterances that a step left out; one that is met again in a later epoch is not counted again."""
        for bad in refused:
            if bad.utterance_id in self.loading:
                continue
            self.loading.add(bad.utterance_id)
            log.warning("left out: %s", bad)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            record = {"samples": samples, "id": bad.utterance_id, "file": str(bad.file), "reason": bad.reason}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def _defect(row: Row) -> str | None:
    """Why an object is no refusal, or None."""
    fits = type(row.get("samples")) is int and isinstance(row.get("id"), str)
    return None if fits else "has no samples or no id"
