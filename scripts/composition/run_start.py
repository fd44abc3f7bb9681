"""The start of a training run in its folder: whose folder it is, that nobody else trains there, what a failed start leaves.

A run is established once something was trained in it. A start that fails before leaves nothing that was not there
before, so that the corrected command finds the name free.
"""

import fcntl
import os
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TextIO

from omegaconf import DictConfig, OmegaConf

from distributed.launch import World
from scripts.configuration import differing_keys
from scripts.startup import UsageError

# What may change when a run goes on: nothing that its numbers depend on, but for the last bits.
FREE_KEYS = (
    *("resume", "logger", "loader", "launch", "checkpoint", "exp_dir", "trainer.log_every"),
    *("trainer.memory_probe", "trainer.memory_limit_gb"),  # of the device; parts of a unit draw dropout of their own
)
TRAINED = ("metrics", "checkpoints", "bad_batches")  # folders with what training has brought


def check_folder(folder: Path, config: DictConfig) -> None:
    """Refuse a folder that belongs to another configuration: going on with this one would mix two runs.

    Raises:
        UsageError: names the keys that differ.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        return
    if not config.resume:
        raise UsageError(f"{folder} holds a run and resume=false would overwrite it; choose another name= or remove it")
    earlier = OmegaConf.load(path)
    assert isinstance(earlier, DictConfig)
    differing = [
        key
        for key in differing_keys(earlier, config)
        if not any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)
    ]
    if differing:
        raise UsageError(
            f"{folder} holds a run with another configuration; it differs in {', '.join(differing)}: "
            "repeat its command to go on, or choose another name="
        )


@contextmanager
def training_in(folder: Path, world: World) -> Iterator[None]:
    """Make the folder and lock it; if what is done inside fails before anything was trained, take back what was made.

    Raises:
        UsageError: another process trains there; learners may outlive a launcher that was killed.
    """
    before = _existing(folder)
    world.barrier()  # nobody makes anything before all have looked
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("a") if world.rank == 0 else nullcontext() as lock:
            if world.any(lock is not None and not _locked(lock)):
                raise UsageError(f"another process is training in {folder}: stop it, or choose another name=")
            try:
                yield
            except BaseException:
                if folder / "config.yaml" not in before and not _established(folder):
                    _take_back(folder, before, world.rank)
                raise
    except BaseException:
        _remove_empty(folder, before)
        raise


def log_traceback(folder: Path, rank: int) -> None:
    """Write it to the learner's log file, if there is one: the terminal gets one line, or torch's own report."""
    with suppress(FileNotFoundError), (folder / "logs" / f"rank-{rank}.log").open("a", encoding="utf-8") as file:
        file.write(traceback.format_exc())


def _locked(file: TextIO) -> bool:
    """Lock an open file; False if another process has, or if a start that failed has removed the file meanwhile."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))
    except (BlockingIOError, FileNotFoundError):
        return False


def _established(folder: Path) -> bool:
    return any(any((folder / name).glob("*")) for name in TRAINED)


def _contents(folder: Path) -> list[Path]:
    return [*folder.glob("*"), *folder.glob("logs/*")]


def _existing(folder: Path) -> set[Path]:
    """What is there of a folder: its parents, itself, and what it holds."""
    return {path for path in (folder, *folder.parents) if path.exists()} | set(_contents(folder))


def _take_back(folder: Path, before: set[Path], rank: int) -> None:
    """Remove what a start has made: learner 0 everything it sees, the others their logs, which may lie on other hosts."""
    made = _contents(folder) if rank == 0 else [folder / "logs" / f"rank-{rank}.log"]
    for path in made:
        if path in before:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _remove_empty(folder: Path, before: set[Path]) -> None:
    for path in (folder / "logs", folder, *folder.parents):
        if path not in before:
            with suppress(OSError):  # not empty: another learner's, or what could not be removed
                path.rmdir()
