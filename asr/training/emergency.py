"""What survives the loss of a learner under gossip: the mean of the others' weights, written without a word between them.

    checkpoints/emergency-00001000-5f3a90c1/model.safetensors   mean of the survivors
                                            manifest.json       as of a checkpoint, of which no learner can resume
                                            loss.json           who was lost and why, whose weights the mean holds

Exchanges with a lost learner may have broken anything that learners share but the run's folder, so they meet there:
each survivor leaves its weights, and the one of lowest rank waits for them a while and averages what has come. The
number is that of the last mark where all learners were together; behind it stands the id of the launch. A restarted
run does not use it: no learner's moments are in it, and a checkpoint before it is complete.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from asr.training.checkpoint import EMERGENCY, MODEL, WRITING, mean_of_models
from asr.training.checkpoint_manifest import write_manifest
from asr.training.files import fsync, put_in_place, sha256, write_atomically
from asr.training.hook import Progress
from distributed.liveness import Loss

log = logging.getLogger(__name__)

_LOOK_AGAIN_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivor:
    """One learner of a run that lost another one."""

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
    mark: int,
    progress: Progress,
    run: Mapping[str, object],
    patience_seconds: float,
) -> Path | None:
    """Leave this learner's weights, and average those of all survivors if this is the one of lowest rank.

    Args:
        root: folder of the run's checkpoints.
        model: this learner's weights and buffers.
        mark: global step at which all learners were last together.
        run: what the manifest says beside: backend and plan.
        patience_seconds: how long to wait for the weights of the others.

    Returns:
        The emergency checkpoint, on the survivor of lowest rank.
    """
    name = f"{EMERGENCY}{mark:08d}-{survivor.launch_id}"
    folder = root / f"{WRITING}{name}"
    folder.mkdir(parents=True, exist_ok=True)
    own = _own_file(folder, survivor.rank)
    unfinished = own.with_suffix(".unfinished")
    save_file({key: tensor.detach().cpu().clone() for key, tensor in model.items()}, unfinished)
    unfinished.rename(own)
    log.error("this learner's weights are in %s", folder)
    if survivor.rank != survivor.others[0]:
        return None
    learners = _wait_for(folder, survivor.others, patience_seconds)
    files = [_own_file(folder, rank) for rank in learners]
    save_file(mean_of_models(files), folder / MODEL)
    fsync(folder / MODEL)
    for file in files:
        file.unlink()
    record = {"lost": survivor.loss.learner, "what": survivor.loss.what, "mean_of": learners}
    write_atomically(folder / "loss.json", json.dumps(record, indent=2))
    write_manifest(
        folder,
        {
            "progress": asdict(progress),
            "world_size": 0,  # states of learners: none
            **run,
            "figure": None,
            "files": {MODEL: sha256(folder / MODEL)},
        },
    )
    final = root / name
    put_in_place(folder, final)
    told = ", ".join(map(str, learners))
    log.error("the mean of learners %s is in %s; checkpoint=emergency takes it", told, final)
    return final


def _own_file(folder: Path, rank: int) -> Path:
    return folder / f"learner-{rank}.safetensors"


def _wait_for(folder: Path, ranks: Sequence[int], seconds: float) -> list[int]:
    """Those whose weights are there when all are, or when the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        there = [rank for rank in ranks if _own_file(folder, rank).exists()]
        if len(there) == len(ranks) or time.monotonic() > deadline:
            return there
        time.sleep(_LOOK_AGAIN_SECONDS)
