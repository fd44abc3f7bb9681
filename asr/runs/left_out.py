"""Global batches that a run leaves out: after them its numbers were not finite, and it has returned to a checkpoint.

left_out/epoch-0000-batch-000012.json   why, and the ids of its utterances

Every learner reads them when it starts. To train on such a batch after all, delete its file and start the run again.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from asr.foreign.json_text import read_json
from asr.runs.files import write_atomically
from asr.runs.run_folder import RunFolder

Place = tuple[int, int]  # epoch, and index of the global batch within it

_NAME = re.compile(r"epoch-([0-9]+)-batch-([0-9]+)\.json")


def leave_out(folder: Path, place: Place, utterance_ids: Iterable[str], why: str) -> None:
    """Add a global batch to those that the run in ``folder`` leaves out."""
    epoch, batch = place
    root = RunFolder(folder).left_out
    root.mkdir(exist_ok=True)
    record = {"epoch": epoch, "batch": batch, "why": why, "utterance_ids": sorted(utterance_ids)}
    write_atomically(_file(folder, place), json.dumps(record, indent=2))


def confirm(folder: Path, start: Place) -> None:
    """Drop batches that were listed newly and that the run, which goes on at ``start``, has already trained on.

    The checkpoint that a run returns to may be newer than the batch behind its bad numbers. Those of earlier returns
    were left out, and stay in the list.
    """
    for place in batches_left_out(folder):
        path = _file(folder, place)
        record = read_json(path)
        if record.get("confirmed"):
            continue
        if place < start:
            path.unlink()
        else:
            write_atomically(path, json.dumps({**record, "confirmed": True}, indent=2))


def batches_left_out(folder: Path) -> Sequence[Place]:
    """The batches that the run in ``folder`` leaves out, in order."""
    names = [_NAME.fullmatch(path.name) for path in RunFolder(folder).left_out.glob("*.json")]
    return sorted((int(found[1]), int(found[2])) for found in names if found)


def _file(folder: Path, place: Place) -> Path:
    epoch, batch = place
    return RunFolder(folder).left_out / f"epoch-{epoch:04d}-batch-{batch:06d}.json"
