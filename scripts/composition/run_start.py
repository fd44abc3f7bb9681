"""The start of a training run: checks that the folder belongs to this configuration, locks it, undoes a failed start.

A run is established once a step was trained in it. A start that fails before that removes all it created, so that the
corrected command finds the name free.
"""

import fcntl
import os
import shutil
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from omegaconf import DictConfig

from asr.foreign.terminal import shown_lines
from asr.runs.run_folder import RunFolder
from distributed.errors import UsageError
from distributed.learners.environment import is_started_again
from distributed.learners.world import World
from scripts.composition.compose import differing_keys, flat
from scripts.composition.run_configuration import read_config, without_later_settings

# Keys that may change when a run is resumed: its numbers depend on none of them, but for the last bits.
FREE_KEYS = (
    *("resume", "logger", "loader", "launch", "checkpoint", "exp_dir", "trainer.log_every"),
    *("trainer.memory_probe", "trainer.memory_limit_gb"),  # of the device; parts of a unit draw dropout of their own
)


def check_folder(folder: Path, config: DictConfig) -> None:
    """Refuse a folder that belongs to another configuration: going on with this one would mix two runs.

    Raises:
        UsageError: names the keys that differ.
    """
    path = RunFolder(folder).config
    if not path.is_file():
        return
    if not config.resume and not is_started_again():
        raise UsageError(f"{folder} holds a run and resume=false would overwrite it; choose another name= or remove it")
    earlier = read_config(path)
    differing = [key for key in differing_keys(earlier, config) if not _is_free(key)]
    if differing:
        raise UsageError(
            f"{folder} holds a run with another configuration; it differs in {', '.join(differing)}: "
            "repeat its command to go on, or choose another name="
        )


def settings_of(config: DictConfig) -> dict[str, Any]:
    """The settings on which a run's numbers depend, by dotted key; its checkpoints record them."""
    settings = {key: value for key, value in flat(config).items() if key != "name" and not _is_free(key)}
    return without_later_settings(settings) | {"the order of hooks": [str(name) for name in config.get("hooks") or {}]}


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)


@dataclass(slots=True)
class Start:
    """Records what existed before a start, so that a failed start can be undone."""

    folder: Path
    rank: int
    before: set[Path]
    has_trained: Callable[[], bool] = lambda: False  # whether a step was made; that leaves no file at first

    def take_back(self) -> None:
        """Remove what this start created, unless a step was trained in the folder, by this start or an earlier one.

        Learner 0 removes everything it sees, the others their logs, which may lie on other hosts.
        """
        folder, before = RunFolder(self.folder), self.before
        if self.has_trained() or folder.config in before:
            return
        if any(any(each.glob("*")) for each in (folder.metrics, folder.checkpoints, folder.bad_batches)):
            return
        for path in _contents(self.folder) if self.rank == 0 else [folder.log_of(self.rank)]:
            if path in before:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)  # other learners remove their logs meanwhile
            else:
                path.unlink(missing_ok=True)
        self.remove_empty()

    def remove_empty(self) -> None:
        """Remove the created folders that are empty: another learner may still have files in the others."""
        for path in (RunFolder(self.folder).logs, self.folder, *self.folder.parents):
            if path not in self.before:
                with suppress(OSError):
                    path.rmdir()

    @contextmanager
    def until_fit(self) -> Iterator[None]:
        """Wraps all before the first step: undoes the start when a launcher ends this learner as another one failed."""
        if threading.current_thread() is not threading.main_thread():  # which alone receives signals
            yield
            return

        def ended(number: int, _: FrameType | None) -> None:
            try:
                self.take_back()
            finally:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)

        earlier = signal.signal(signal.SIGTERM, ended)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, earlier)


@contextmanager
def training_in(folder: Path, world: World) -> Iterator[Start]:
    """Create and lock the folder; if the body fails before a step was trained, remove what was created.

    Raises:
        UsageError: another process trains there; learners may outlive a launcher that was killed.
    """
    start = Start(folder, world.rank, _existing(folder))
    world.barrier()  # all learners must have listed what exists before any of them creates something
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with RunFolder(folder).lock.open("a") if world.rank == 0 else nullcontext() as lock:
            if world.any(lock is not None and not _locked(lock)):
                raise UsageError(f"another process is training in {folder}: stop it, or choose another name=")
            try:
                yield start
            except BaseException:
                start.take_back()
                raise
    except BaseException:
        start.remove_empty()
        raise


def log_traceback(folder: Path, rank: int) -> None:
    """Append the current traceback to the learner's log file, if there is one; the terminal gets only one line."""
    with suppress(FileNotFoundError), RunFolder(folder).log_of(rank).open("a", encoding="utf-8") as file:
        file.write(shown_lines(traceback.format_exc()))


def _locked(file: TextIO) -> bool:
    """Lock an open file; False if another process has, or if a start that failed has removed the file meanwhile."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))
    except (BlockingIOError, FileNotFoundError):
        return False


def _contents(folder: Path) -> list[Path]:
    return [*folder.glob("*"), *RunFolder(folder).logs.glob("*")]


def _existing(folder: Path) -> set[Path]:
    """The existing paths among a folder, its parents and its content."""
    return {path for path in (folder, *folder.parents) if path.exists()} | set(_contents(folder))
