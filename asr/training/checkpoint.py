"""Checkpoints that survive kill -9, a full disk and a flipped bit.

    checkpoints/step-00001000/learner-0.pt ...   each learner's own state, loadable without unpickling code
    checkpoints/step-00001000/model.safetensors  the consensus model
    checkpoints/step-00001000/manifest.json      SHA-256 of every file, where the run stood, figures

Everything is written into a folder under a temporary name and fsynced; learner 0 then writes the manifest and renames
the folder, so that a folder under its final name is complete. Writing fails or succeeds on all learners together.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from asr.training.hook import Progress
from distributed.launch import World
from distributed.ranges import Count, Natural

FORMAT = 1
MANIFEST = "manifest.json"
MODEL = "model.safetensors"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read; the message names the file and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Which checkpoints are kept."""

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
    wer: float | None  # on the first evaluation set, if it was evaluated at this point
    files: Mapping[str, str]  # file name -> SHA-256

    def learner_state(self, learner: int, device: torch.device) -> dict[str, Any]:
        """State of one learner of the run that wrote the checkpoint."""
        return torch.load(self.folder / f"learner-{learner}.pt", map_location=device, weights_only=True)

    def model_state(self) -> dict[str, Tensor]:
        """Weights of the consensus model."""
        return load_file(self.folder / MODEL)

    def damaged_file(self) -> Path | None:
        """The first file that is missing or differs from the manifest's hash; None if all are as written."""
        for name, digest in self.files.items():
            path = self.folder / name
            if not path.is_file() or sha256(path) != digest:
                return path
        return None


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint's manifest.

    Raises:
        CheckpointError: the manifest is missing or not one of ours.
    """
    path = folder / MANIFEST
    try:
        record = json.loads(path.read_text())
        if record["format"] != FORMAT:
            raise CheckpointError(f"{path}: format {record['format']}, this version reads {FORMAT}")
        return Checkpoint(
            folder=folder,
            progress=Progress(**record["progress"]),
            world_size=record["world_size"],
            backend=record["backend"],
            plan=record["plan"],
            wer=record["wer"],
            files=record["files"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint manifest: {error!r}") from error


def list_checkpoints(root: Path) -> tuple[list[Checkpoint], list[str]]:
    """Complete checkpoints below ``root``, oldest first, and what is wrong with those that cannot be read."""
    found, problems = [], []
    for folder in sorted(root.glob("step-*")):
        try:
            found.append(read_checkpoint(folder))
        except CheckpointError as error:
            problems.append(str(error))
    return found, problems


def newest_intact(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose files all match their hashes, and a line for each one passed over."""
    found, problems = list_checkpoints(root)
    for checkpoint in reversed(found):
        damaged = checkpoint.damaged_file()
        if damaged is None:
            return checkpoint, problems
        problems.append(f"{damaged}: missing, truncated or altered (SHA-256 differs); using the checkpoint before it")
    return None, problems


def best_checkpoint(checkpoints: list[Checkpoint]) -> Checkpoint | None:
    """The one with the lowest word error rate (the newest of equals); the newest if none was evaluated."""
    evaluated = [c for c in checkpoints if c.wer is not None]
    if evaluated:
        return min(reversed(evaluated), key=lambda c: c.wer if c.wer is not None else float("inf"))
    return checkpoints[-1] if checkpoints else None


class CheckpointFolder:
    """Writes, finds and retires the checkpoints of one run; every method is called by all learners together."""

    def __init__(self, root: Path, world: World, retention: Retention, backend: str, plan: int) -> None:
        self.root = root
        self.world = world
        self.retention = retention
        self.backend = backend
        self.plan = plan

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest intact checkpoint, found by learner 0 for all, and what it passed over.

        Raises:
            CheckpointError: it was written under another batch plan, in which it would stand for other utterances.
        """
        checkpoint, problems = newest_intact(self.root) if self.world.rank == 0 else (None, [])
        number = torch.tensor([-1 if checkpoint is None else int(checkpoint.folder.name.split("-")[1])])
        self.world.broadcast(number, source=0)
        if self.world.rank != 0 and number.item() >= 0:
            checkpoint = read_checkpoint(self.root / _name(int(number.item())))
        if checkpoint is not None and checkpoint.plan != self.plan:
            raise CheckpointError(
                f"{checkpoint.folder} was written with other training data (utterances, lengths or tokens have changed "
                "since): restore the data to go on, or choose another name="
            )
        return checkpoint, problems

    def save(
        self, progress: Progress, state: Mapping[str, Any], consensus: Mapping[str, Tensor] | None, wer: float | None
    ) -> Path:
        """Write one checkpoint; ``consensus`` is given by learner 0 alone.

        Raises:
            CheckpointError: on every learner, if any of them could not write; older checkpoints are untouched.
        """
        final = self.root / _name(progress.global_step)
        temporary = self.root / f".writing-{final.name}"
        self._together(lambda: self._prepare(temporary), final)
        self._together(lambda: self._write_own(temporary, state, consensus), final)
        self._together(lambda: self._complete(temporary, final, progress, wer), final)
        return final

    def _together(self, action: Any, final: Path) -> None:
        """Run a step of the protocol on every learner; fail on all if it failed on one."""
        failure: Exception | None = None
        try:
            action()
        except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as RuntimeError
            failure = error
        if self.world.any(failure is not None):
            told = str(failure) if failure is not None else "another learner could not write its part (see its log)"
            raise CheckpointError(
                f"cannot write checkpoint {final}: {told}; the checkpoints before it are intact: "
                "free space or make the folder writable, then run the same command again"
            ) from failure

    def _prepare(self, temporary: Path) -> None:
        if self.world.rank != 0:
            return
        for leftover in self.root.glob(".writing-*"):
            shutil.rmtree(leftover)
        temporary.mkdir(parents=True)

    def _write_own(self, temporary: Path, state: Mapping[str, Any], consensus: Mapping[str, Tensor] | None) -> None:
        own = temporary / f"learner-{self.world.rank}.pt"
        torch.save(dict(state), own)
        _fsync(own)
        _write_text(own.with_suffix(".sha256"), sha256(own))
        if consensus is not None:
            # A clone: the weights are views of one flat buffer, which safetensors refuses to store several times.
            save_file({name: tensor.detach().cpu().clone() for name, tensor in consensus.items()}, temporary / MODEL)
            _fsync(temporary / MODEL)

    def _complete(self, temporary: Path, final: Path, progress: Progress, wer: float | None) -> None:
        if self.world.rank != 0:
            return
        files = {MODEL: sha256(temporary / MODEL)}
        for learner in range(self.world.size):
            digest = temporary / f"learner-{learner}.sha256"
            files[f"learner-{learner}.pt"] = digest.read_text()
            digest.unlink()
        record = {
            "format": FORMAT,
            "progress": asdict(progress),
            "world_size": self.world.size,
            "backend": self.backend,
            "plan": self.plan,
            "wer": wer,
            "files": files,
        }
        _write_text(temporary / MANIFEST, json.dumps(record, indent=2))
        if final.exists():  # a damaged one, or one that a resume from an older checkpoint writes again
            shutil.rmtree(final)
        temporary.rename(final)
        _fsync(self.root)
        self._retire()

    def _retire(self) -> None:
        found, _ = list_checkpoints(self.root)
        kept = {c.folder for c in found[-self.retention.keep_last :]}
        remaining = [c for c in found if c.wer is not None]
        for _ in range(min(self.retention.keep_best, len(remaining))):
            best = best_checkpoint(remaining)
            assert best is not None
            kept.add(best.folder)
            remaining.remove(best)
        for checkpoint in found:
            if checkpoint.folder not in kept:
                shutil.rmtree(checkpoint.folder)


def _name(global_step: int) -> str:
    return f"step-{global_step:08d}"


def _write_text(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
