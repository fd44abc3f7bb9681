"""Checkpoints on disk: what lies in their folders, how they are read and found.

    checkpoints/step-00001000/learner-0.pt ...   each learner's own state, loadable without unpickling code
    checkpoints/step-00001000/shared.pt          what all of them hold alike (checkpoint_shared.py); none in gossip
    checkpoints/step-00001000/model.safetensors  the consensus model; with model.yaml and tokenizer/ a model folder
    checkpoints/step-00001000/auxiliary.safetensors   consensus of the modules that train with it, where there are any
    checkpoints/step-00001000/manifest.json      SHA-256 of every file and of itself, where the run stood, figures
    checkpoints/damaged-step-00002000/           passed over by a resume, kept for inspection, used by nothing
    checkpoints/emergency-...                    mean of survivors (emergency.py), used on request only

A folder under its final name is complete: checkpoint_folder.py writes them so.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.foreign.files import ForeignError
from asr.foreign.tensors import read_state, read_tensors, refuse_non_finite
from asr.runs.checkpoint_manifest import CheckpointError, FormatError, read_manifest
from asr.runs.checkpoint_shared import SHARED, joined
from asr.runs.files import sha256
from asr.runs.model_folder import DESCRIPTION, WEIGHTS, Description, is_model_folder, read_description
from asr.runs.progress import Progress
from asr.runs.run_folder import RunFolder
from distributed.errors import UsageError
from distributed.ranges import Count, Natural

AUXILIARIES = "auxiliary.safetensors"
WRITING = ".writing-"
DAMAGED = "damaged-"
EMERGENCY = "emergency-"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The rule that decides which checkpoints are kept."""

    keep_last: Count
    keep_best: Natural


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint, as its manifest describes it."""

    folder: Path
    progress: Progress
    world_size: int
    backend: str
    plan: int  # fingerprint of the batch plan
    figure: float | None  # metric of the first evaluation set, lower is better; None if not evaluated at this point
    files: Mapping[str, str]  # file name -> SHA-256
    settings: Mapping[str, Any] | None = None  # the run's, by dotted key; None in checkpoints of an earlier version

    def learner_state(self, learner: int, device: torch.device) -> dict[str, Any]:
        """State of one learner of the run that wrote the checkpoint."""
        own = read_state(self.folder / learner_file(learner), device)
        if SHARED not in self.files:
            return own
        weights = {name: tensor.to(device) for name, tensor in self.consensus().items()}
        return joined({"model": weights}, read_state(self.folder / SHARED, device), own)

    def backend_states(self) -> list[dict[str, Any]]:
        """The backend's state of every learner, on the CPU; weights and moments in the files are not read."""
        files = [self.folder / learner_file(learner) for learner in range(self.world_size)]
        return [read_state(file, torch.device("cpu"), mmap=True)["backend"] for file in files]

    def model_state(self) -> dict[str, Tensor]:
        """Weights of the consensus model."""
        return read_tensors(self.folder / WEIGHTS)

    def consensus(self) -> dict[str, Tensor]:
        """Weights of the consensus model, and of the modules that train with it."""
        return self.model_state() | (read_tensors(self.folder / AUXILIARIES) if AUXILIARIES in self.files else {})

    def refuse_non_finite(self) -> None:
        """Raise ForeignError unless all weights of the consensus model and of every learner are finite."""
        refuse_non_finite(self.consensus(), self.folder / WEIGHTS)
        shared = [SHARED] if SHARED in self.files else []
        for name in (*shared, *map(learner_file, range(self.world_size))):
            file = self.folder / name
            refuse_non_finite(read_state(file, torch.device("cpu"), mmap=True).get("model", {}), file)

    def damaged_file(self) -> Path | None:
        """The first file that is missing or differs from the manifest's hash; None if all are as written."""
        for name, digest in self.files.items():
            path = self.folder / name
            if not path.is_file() or sha256(path) != digest:
                return path
        return None


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint's manifest.

    Raises:
        FormatError: it was written by another version of this program.
        CheckpointError: the manifest is missing, altered or not one of ours.
    """
    record = read_manifest(folder)
    try:
        checkpoint = Checkpoint(folder, **record | {"progress": Progress(**record["progress"])})
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: its manifest has other fields than this version's: {error}") from error
    if not _fits(checkpoint):
        raise CheckpointError(f"{folder}: its manifest has values that no checkpoint has")
    unlisted = {WEIGHTS, DESCRIPTION, *map(learner_file, range(checkpoint.world_size))} - checkpoint.files.keys()
    if unlisted:
        raise CheckpointError(f"{folder}: its manifest does not list {', '.join(sorted(unlisted))}")
    return checkpoint


def _fits(checkpoint: Checkpoint) -> bool:
    """Whether every field has its type, and ``world_size`` is no larger than the number of listed files."""
    counts = (checkpoint.world_size, checkpoint.plan, *asdict(checkpoint.progress).values())
    return (
        all(type(count) is int for count in counts)
        and isinstance(checkpoint.files, dict)
        and all(isinstance(digest, str) for digest in checkpoint.files.values())
        and 0 <= checkpoint.world_size <= len(checkpoint.files)
        and isinstance(checkpoint.backend, str)
        and (checkpoint.figure is None or type(checkpoint.figure) in (int, float))
        and (checkpoint.settings is None or isinstance(checkpoint.settings, dict))
    )


def list_checkpoints(root: Path) -> tuple[list[Checkpoint], dict[Path, str]]:
    """Complete checkpoints below ``root``, oldest first, and the problem of each unreadable one, by folder.

    Raises:
        FormatError: one was written by another version of this program.
    """
    return _readable(each for each in root.glob("step-*") if re.fullmatch("step-[0-9]{8}", each.name))


def list_emergencies(root: Path) -> tuple[list[Checkpoint], dict[Path, str]]:
    """Emergency checkpoints below ``root``, oldest first, and the problem of each unreadable one, by folder.

    Raises:
        FormatError: one was written by another version of this program.
    """
    found, problems = _readable(root.glob(f"{EMERGENCY}*"))
    return sorted(found, key=lambda each: (each.folder / WEIGHTS).stat().st_mtime), problems


def _readable(folders: Iterable[Path]) -> tuple[list[Checkpoint], dict[Path, str]]:
    found, problems = [], {}
    for folder in sorted(folders):
        try:
            found.append(read_checkpoint(folder))
        except FormatError:
            raise
        except CheckpointError as error:
            problems[folder] = str(error)
    return found, problems


def newest_intact(root: Path) -> tuple[Checkpoint | None, dict[Path, str]]:
    """The newest checkpoint with matching hashes and finite weights, and the problem of each newer one, by folder.

    Raises:
        FormatError: one was written by another version of this program.
    """
    found, problems = list_checkpoints(root)
    for checkpoint in reversed(found):
        damaged = checkpoint.damaged_file()
        if damaged is not None:
            problems[checkpoint.folder] = f"{damaged}: missing, truncated or altered (SHA-256 differs)"
            continue
        try:
            checkpoint.refuse_non_finite()
        except ForeignError as error:
            problems[checkpoint.folder] = str(error)
        else:
            newer = {folder: why for folder, why in problems.items() if folder.name > checkpoint.folder.name}
            return checkpoint, newer
    return None, problems


def newest_description(root: Path) -> Description | None:
    """The model's description in the newest checkpoint in which it can be read; None if there is none.

    Raises:
        FormatError: a checkpoint was written by another version of this program.
    """
    for checkpoint in reversed(list_checkpoints(root)[0]):
        with suppress(UsageError):  # a resume from that checkpoint reports that it is damaged
            return read_description(checkpoint.folder)[0]
    return None


def ranked_checkpoints(checkpoints: list[Checkpoint]) -> list[Checkpoint]:
    """The evaluated checkpoints, by ascending metric (the newer of equals first)."""
    evaluated = [(c.figure, c) for c in reversed(checkpoints) if c.figure is not None]
    return [c for _, c in sorted(evaluated, key=lambda pair: pair[0])]


def best_checkpoint(checkpoints: list[Checkpoint]) -> Checkpoint | None:
    """The checkpoint with the lowest metric; the newest if none was evaluated."""
    return next(iter(ranked_checkpoints(checkpoints) or checkpoints[-1:]), None)


def model_folder_of(folder: Path, key: str) -> Path:
    """``folder`` if it is a model folder, else the best checkpoint of the run in ``folder``; checked to be intact.

    Raises:
        UsageError: it is neither, or damaged; the message calls it ``key``.
    """
    if is_model_folder(folder):
        return folder
    found, problems = list_checkpoints(RunFolder(folder).checkpoints)
    best = best_checkpoint(found)
    if best is None:
        unreadable = "".join(f"; {problem}" for problem in problems.values())
        raise UsageError(
            f"{key}={folder}: no checkpoint there; give the folder of a trained run, or a model folder{unreadable}"
        )
    warn_of_unreadable(problems)
    damaged = best.damaged_file()
    if damaged is not None:
        raise UsageError(f"{key}={folder}: {damaged} is missing, truncated or altered (SHA-256 differs)")
    return best.folder


def warn_of_unreadable(problems: Mapping[Path, str]) -> None:
    """Log the checkpoints that a choice skipped because they are unreadable: the user may have meant one of them."""
    for problem in problems.values():
        log.warning("checkpoint passed over: %s", problem)


def checkpoint_name(global_step: int) -> str:
    """Name of the checkpoint folder of a global step."""
    return f"step-{global_step:08d}"


def learner_file(learner: int) -> str:
    """Name of the file with one learner's state."""
    return f"learner-{learner}.pt"


def mean_of_models(files: Sequence[Path]) -> dict[str, Tensor]:
    """Mean of the floating tensors, summed in float64 file by file; other tensors from the first file."""
    first = read_tensors(files[0])
    sums = {name: tensor.double() for name, tensor in first.items() if tensor.is_floating_point()}
    for file in files[1:]:
        state = read_tensors(file)
        for name, total in sums.items():
            total.add_(_alike(state, name, total, file, files[0]))
    return {name: (sums[name] / len(files)).to(t.dtype) if name in sums else t for name, t in first.items()}


def mean_of_auxiliaries(folders: Sequence[Path]) -> dict[str, Tensor]:
    """Mean of the modules that trained with the model, as ``mean_of_models``; {} unless every folder holds them.

    Of other tensors it is the least value of all: a mean has come no further than the checkpoint that is furthest behind.
    """
    files = [folder / AUXILIARIES for folder in folders]
    if not all(file.is_file() for file in files):
        return {}
    mean = mean_of_models(files)
    for file in files[1:]:
        state = read_tensors(file)
        for name, least in mean.items():
            if not least.is_floating_point():
                mean[name] = least.minimum(_alike(state, name, least, file, files[0]))
    return mean


def _alike(state: Mapping[str, Tensor], name: str, like: Tensor, file: Path, first: Path) -> Tensor:
    """A tensor of a ``file``; CheckpointError unless it has the shape that it has in the ``first``."""
    if name not in state or state[name].shape != like.shape:
        raise CheckpointError(f"{file}: has no {name} of the shape that it has in {first}: not of one run")
    return state[name]


def intact_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint in a folder, if there is one and it is not damaged."""
    try:
        checkpoint = read_checkpoint(folder)
    except CheckpointError:
        return None
    return checkpoint if checkpoint.damaged_file() is None else None
