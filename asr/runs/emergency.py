"""Saves the mean of the survivors' weights when gossip loses a learner; the survivors exchange no messages for it.

    checkpoints/emergency-5f3a90c1-without-2/model.safetensors   mean of the survivors
                                             manifest.json       as of a checkpoint, of which no learner can resume
                                             loss.json           who was lost and why, whose weights the mean holds

Exchanges with a lost learner may have broken anything that learners share but the run's folder, so they meet there:
each survivor leaves its weights and waits a while for those of the others, of whom more may be lost; the first of those
who came averages what is there. The name is that of the launch and of the lost learner, all that they are sure to agree
on: some may have been some steps further. Where a network falls apart, each side misses another learner and has a folder
of its own. A restarted run does not use it: no learner's moments are in it, and a checkpoint before it is complete.
"""

import errno
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from asr.foreign.files import ForeignError
from asr.foreign.json_text import read_json
from asr.models.auxiliary import without_auxiliaries
from asr.runs.checkpoint import EMERGENCY, WRITING, mean_of_models
from asr.runs.checkpoint_manifest import write_manifest
from asr.runs.files import put_in_place, sha256, write_atomically
from asr.runs.model_folder import WEIGHTS, ModelParts, write_description, write_weights
from asr.runs.progress import Progress
from distributed.learners.signs import Loss

log = logging.getLogger(__name__)

WAIT_SECONDS = 30.0  # for survivors that have a long step to finish first
_LOOK_AGAIN_SECONDS = 0.05
_LOSS = "loss.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivor:
    """A learner that remains after another one was lost."""

    rank: int
    world_size: int
    launch_id: str
    loss: Loss

    @property
    def others(self) -> list[int]:
        """All ranks that were not lost, in order, this one included."""
        return [rank for rank in range(self.world_size) if rank != self.loss.learner]


def save_mean(
    root: Path,
    survivor: Survivor,
    model: Mapping[str, Tensor],
    *,
    parts: ModelParts,
    progress: Progress,
    run: Mapping[str, object],
    wait_seconds: float = WAIT_SECONDS,
) -> Path | None:
    """Write this learner's weights; the first survivor then averages those of all.

    Args:
        root: folder of the run's checkpoints.
        model: this learner's weights and buffers.
        parts: what makes a model folder of the mean.
        run: further fields of the manifest: backend, plan and settings.
        wait_seconds: how long to wait for the weights of the others.

    Returns:
        The emergency checkpoint, on the survivor that wrote it.

    Raises:
        OSError: this learner's weights, or the mean, cannot be written: the disk may be full.
    """
    final = root / f"{EMERGENCY}{survivor.launch_id}-without-{survivor.loss.learner}"
    folder = root / f"{WRITING}{final.name}"
    if final.exists():  # this one is late
        return None
    _leave(folder, survivor.rank, without_auxiliaries(model))
    there = _wait_for(folder, final, survivor, wait_seconds)
    if not there or there[0] != survivor.rank:
        return None
    _complete(folder, final, survivor.loss, there, parts, {"progress": asdict(progress), **run})
    log.error("the mean of learners %s is in %s; checkpoint=emergency takes it", ", ".join(map(str, there)), final)
    return final


def _leave(folder: Path, rank: int, model: Mapping[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    own = _own_file(folder, rank)
    unfinished = own.with_suffix(".unfinished")
    try:
        save_file({key: tensor.detach().cpu().clone() for key, tensor in model.items()}, unfinished)
    except SafetensorError as error:
        raise OSError(errno.EIO, " ".join(str(error).split()), str(unfinished)) from error
    unfinished.rename(own)
    log.error("this learner's weights are in %s", folder)


def _complete(
    folder: Path, final: Path, loss: Loss, learners: Sequence[int], parts: ModelParts, record: Mapping[str, object]
) -> None:
    files = [_own_file(folder, rank) for rank in learners]
    write_weights(folder / WEIGHTS, mean_of_models(files))
    names = [WEIGHTS, *write_description(folder, parts.description, parts.tokenizer)]
    loss_record = {"lost": loss.learner, "what": loss.what, "mean_of": list(learners)}
    write_atomically(folder / _LOSS, json.dumps(loss_record, indent=2))
    without_learners = {"world_size": 0, "figure": None, "files": {name: sha256(folder / name) for name in names}}
    write_manifest(folder, {**record, **without_learners})
    for file in files:
        file.unlink()
    put_in_place(folder, final)


def _own_file(folder: Path, rank: int) -> Path:
    return folder / f"learner-{rank}.safetensors"


def _wait_for(folder: Path, final: Path, survivor: Survivor, seconds: float) -> list[int]:
    """Wait at most ``seconds`` for the weights of the others; return the ranks present, none if already averaged."""
    deadline = time.monotonic() + seconds
    while not final.exists():
        there = [rank for rank in survivor.others if _own_file(folder, rank).exists()]
        missing = [rank for rank in survivor.others if rank not in there]
        if all(_elsewhere(folder, final, survivor, rank) for rank in missing) or time.monotonic() > deadline:
            return there
        time.sleep(_LOOK_AGAIN_SECONDS)
    return []


def _elsewhere(folder: Path, final: Path, survivor: Survivor, rank: int) -> bool:
    """Whether a learner has left its weights on another side than this one, of those who miss another learner."""
    sides = set(folder.parent.glob(f"*{EMERGENCY}{survivor.launch_id}-without-*")) - {folder, final}
    return any(_own_file(side, rank).exists() or rank in _averaged(side) for side in sides)


def _averaged(side: Path) -> list[int]:
    """The learners whose mean an emergency checkpoint holds; none where it is not complete."""
    try:
        return list(read_json(side / _LOSS)["mean_of"])
    except ForeignError:  # not there yet, or renamed just now
        return []
