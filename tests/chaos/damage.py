"""Checkpoints that something has damaged between two starts of a run: flipped bits, lost ends, lost files."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.chaos.ground import Ground, Tried
from tests.chaos.injector import Fault
from tests.chaos.oracle import check_fault, intact
from tests.chaos.trial import GRACE, PATIENCE, STEPS, BrokenPromiseError, Trial


def _flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 1, 8))):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def _truncate(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def _zero(path: Path, draw: random.Random) -> None:
    """The blocks were never written, as after a loss of power."""
    path.write_bytes(bytes(path.stat().st_size))


def _delete(path: Path, draw: random.Random) -> None:
    path.unlink()


def _swap(path: Path, draw: random.Random) -> None:
    """Another file's content."""
    other = draw.choice([each for each in _files(path.parent) if each != path])
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (_flip, _flip, _truncate, _truncate, _zero, _delete, _swap)


def checkpoints(ground: Ground, draw: random.Random) -> Iterator[Tried]:
    """The newest checkpoints of a run that was killed, all but the oldest at most, are damaged: an older one is used."""
    trial = ground.trial(draw, learners=2)
    _begun(ground, trial)
    good = sorted(intact(trial))
    number = draw.randint(1, len(good) - 1)
    for name in good[-number:]:
        draw.choice(DAMAGES)(draw.choice(_files(trial.run / "checkpoints" / name)), draw)
    left = good[:-number]
    if intact(trial) != set(left):
        raise BrokenPromiseError(
            f"damage was not seen: of {good} the last {number} were damaged, {sorted(intact(trial))} count as good"
        )
    trial.start()
    ended = trial.wait()
    yield Tried("passed over", None, number)
    if f"resuming from checkpoint {left[-1]}" not in ended.printed[0]:
        raise BrokenPromiseError(f"{left[-1]} is the newest that is good, and was not taken: {ended.printed[0]}")
    check_fault(trial, ended, left)
    ground.finish(trial)


def _begun(ground: Ground, trial: Trial) -> None:
    """Copy a run that was killed near its end, made once for each backend."""
    made = ground.root / f"begun-{trial.backend}-{trial.learners}"
    if not made.exists():
        begun = Trial(made, ground.corpus, trial.backend, trial.learners)
        begun.start(*[Fault(deed="kill", learner=rank, step=STEPS - 6) for rank in range(trial.learners)])
        begun.wait(within=PATIENCE + GRACE)
    shutil.copytree(made, trial.folder)


def _files(folder: Path) -> list[Path]:
    """The files of a checkpoint that are not empty, its tokenizer's among them."""
    return sorted(each for each in folder.rglob("*") if each.is_file() and each.stat().st_size)
