"""A kill at any moment of writing a checkpoint leaves an intact one, and the next save is not disturbed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from asr.runs import model_folder
from asr.runs.checkpoint import Retention
from asr.runs.checkpoint_folder import CheckpointFolder
from asr.runs.progress import Progress
from distributed.learners.world import World
from tests.model_parts import NO_MODEL

CALLS = ((os, "fsync"), (os, "rename"), (os, "replace"), (os, "unlink"), (os, "rmdir"), (os, "mkdir"))
WRITES = ((torch, "save"), (model_folder, "save_file"))


class Killed(BaseException):
    """What a kill looks like from inside."""


class Clock:
    """Counts calls, and kills at one of them: before it, or after half of what a write writes."""

    def __init__(self, patch: pytest.MonkeyPatch, deadline: int) -> None:
        self.calls = 0
        self.deadline = deadline
        for owner, name in CALLS:
            patch.setattr(owner, name, self.counted(getattr(owner, name)))
        for owner, name in WRITES:
            patch.setattr(owner, name, self.torn(getattr(owner, name)))

    def tick(self) -> bool:
        self.calls += 1
        return self.calls == self.deadline

    def counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def ticking(*args: Any, **kwargs: Any) -> Any:
            if self.tick():
                raise Killed
            return call(*args, **kwargs)

        return ticking

    def torn(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def ticking(value: Any, target: Any) -> None:
            killed = self.tick()
            write(value, target)
            if killed:
                if not isinstance(target, Path):
                    target.flush()
                path = target if isinstance(target, Path) else Path(target.name)
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                raise Killed

        return ticking


def save(root: Path, world: World, samples: int, figure: float | None = None, *, in_background: bool = False) -> None:
    """Global steps are pairs of samples here: 4 and 5 share a name."""
    retention = Retention(keep_last=1, keep_best=0)
    checkpoints = CheckpointFolder(root, world, retention, "Single", 7, NO_MODEL, {}, in_background)
    state = {"backend": {}, "samples": samples}
    checkpoints.save(Progress(samples=samples, global_step=samples // 2), state, {"w": torch.ones(2)}, figure)
    checkpoints.finish()


def newest(root: Path, world: World) -> int:
    """Samples at which a resume goes on; nothing it sees may look like damage."""
    chosen, problems = CheckpointFolder(
        root, world, Retention(keep_last=1, keep_best=0), "Single", 7, NO_MODEL, {}
    ).newest()
    assert problems == []
    assert chosen is not None
    assert chosen.learner_state(0, torch.device("cpu"))["samples"] == chosen.progress.samples
    return chosen.progress.samples


@pytest.mark.parametrize("in_background", [False, True])
@pytest.mark.parametrize(
    ("samples", "resumed"),
    [(5, True), (5, False), (6, True)],
    ids=["one takes the place of another", "the same, and no resume before the next save", "one retires another"],
)
def test_kills(tmp_path: Path, alone: World, samples: int, resumed: bool, in_background: bool) -> None:
    before = tmp_path / "before"
    save(before, alone, 4)
    found = []
    for deadline in range(1, 100):
        root = tmp_path / f"{deadline}"
        shutil.copytree(before, root)
        with pytest.MonkeyPatch.context() as patch:
            clock = Clock(patch, deadline)
            try:
                save(root, alone, samples, in_background=in_background)
            except Killed:
                pass
            else:
                break
        if resumed:
            found.append(newest(root, alone))
        save(root, alone, samples)
        assert newest(root, alone) == samples
        assert [path.name for path in root.iterdir()] == [f"step-{samples // 2:08d}"], f"after kill {deadline}"
    assert clock.calls > 15, "the save was watched"
    if resumed:
        assert found == sorted(found), "the old one, and from some moment on the new one"
        assert set(found) == {4, samples}


def test_what_made_way_survives_a_second_kill(tmp_path: Path, alone: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the only checkpoint a first kill left the old folder aside; the next save must not begin by deleting it."""
    save(tmp_path, alone, 4)

    def killed(*_: object) -> None:
        raise Killed

    (tmp_path / "step-00000002").rename(tmp_path / ".replaced-step-00000002")
    with monkeypatch.context() as patch:
        patch.setattr(model_folder, "save_file", killed)
        with pytest.raises(Killed):
            save(tmp_path, alone, 6)
    assert newest(tmp_path, alone) == 4
