"""Checkpoints for tests: folders of them, small ones, and damage."""

import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from asr.runs.checkpoint import Retention, list_checkpoints
from asr.runs.checkpoint_folder import CheckpointFolder
from asr.runs.progress import Progress
from distributed.learners.world import World
from tests.model_parts import NO_MODEL


@pytest.fixture
def folder() -> Callable[..., CheckpointFolder]:
    """``folder(root, world, keep_last=10, keep_best=0, plan=7, in_background=False, **settings)``: of checkpoints."""

    def make(
        root: Path,
        world: World,
        keep_last: int = 10,
        keep_best: int = 0,
        plan: int = 7,
        in_background: bool = False,
        **settings: object,
    ) -> CheckpointFolder:
        retention = Retention(keep_last=keep_last, keep_best=keep_best)
        return CheckpointFolder(root, world, retention, "Single", plan, NO_MODEL, settings, in_background)

    return make


@pytest.fixture
def save() -> Callable[..., Path]:
    """``save(checkpoints, step, figure=None, size=4)``: where a checkpoint of ``size`` weights was written."""

    def write(checkpoints: CheckpointFolder, step: int, figure: float | None = None, size: int = 4) -> Path:
        state = {
            "model": {"w": torch.full((size,), float(step))},
            "backend": {"round": step, "w": torch.full((2,), float(step))},
            "numbers": [0.5],
            "hooks": {"a": {"n": step}},
        }
        progress = Progress(step=step, samples=8 * step, global_step=step)
        return checkpoints.save(progress, state, {"w": torch.ones(2)}, figure)

    return write


@pytest.fixture
def steps() -> Callable[[Path], list[int]]:
    """``steps(root)``: of the checkpoints that are there."""
    return lambda root: [checkpoint.progress.step for checkpoint in list_checkpoints(root)[0]]


@pytest.fixture
def damage() -> Callable[..., Path]:
    """``damage(checkpoint, name="learner-0.pt")``: the file that has lost its last byte."""

    def cut(checkpoint: Path, name: str = "learner-0.pt") -> Path:
        victim = checkpoint / name
        victim.write_bytes(victim.read_bytes()[:-1])
        return victim

    return cut


@pytest.fixture
def small_files() -> Iterator[None]:
    """Writing past 64 KiB into any file fails, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)
