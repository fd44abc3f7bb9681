"""Disks that are full: of one learner, by a limit on its files; of all, on a small file system of their own."""

import errno
import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed.errors import UsageError
from tests.chaos.ground import Ground, Tried
from tests.chaos.injector import Fault
from tests.chaos.oracle import check_fault, intact
from tests.chaos.trial import GRACE, PATIENCE

SIZE = 64 << 20  # bytes of the small file system
UNTIL_NOTICED = 20.0  # seconds until a checkpoint is due, on a busy machine


def one_learner(ground: Ground, draw: random.Random) -> Iterator[Tried]:
    """The files of one learner cannot grow beyond some kilobytes: its part of the next checkpoint does not fit."""
    trial = ground.trial(draw)
    for window in ground.windows:
        before = intact(trial)
        fault = Fault(
            deed="disk",
            learner=draw.randrange(trial.learners),
            step=draw.randint(*window),
            number=draw.randint(20, 100) << 10,
        )
        trial.start(fault)
        ended = trial.wait(within=UNTIL_NOTICED + PATIENCE + GRACE)
        yield Tried(check_fault(trial, ended, before), ended.seconds)
        if ended.done:
            return ground.judge(trial, ended)
    return ground.finish(trial)


def whole_disk(ground: Ground, draw: random.Random) -> Iterator[Tried]:
    """The file system of the run is filled from outside, and has room again before the next start."""
    trial = ground.trial(draw)
    with small_disk(trial.folder / "exp"):
        ballast = trial.folder / "exp" / "ballast"
        for window in ground.windows:
            before = intact(trial)
            trial.start()
            trial.wait_for_step(draw.randint(*window))
            before |= intact(trial)
            _fill(ballast, draw.choice((0, 0, 4, 16, 40)) << 10)
            ended = trial.wait(within=UNTIL_NOTICED + PATIENCE + GRACE, faulted=time.time())
            ballast.unlink()
            yield Tried(check_fault(trial, ended, before), ended.seconds)
            if ended.done:
                return ground.judge(trial, ended)
        trial.start()
        return ground.close(trial)


def _fill(path: Path, left: int) -> None:
    """Take all room of a file system but ``left`` bytes; the run may take some of it meanwhile."""
    with path.open("wb") as file:
        while True:
            stat = os.statvfs(path.parent)
            try:
                return os.posix_fallocate(file.fileno(), 0, max(1, stat.f_bavail * stat.f_frsize - left))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system in memory at ``folder``.

    Raises:
        UsageError: this process may not mount one.
    """
    if os.geteuid() != 0:
        raise UsageError("a small file system needs root, to be mounted; run the same command with sudo")
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
