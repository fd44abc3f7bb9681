"""Checkpoints that threads write: the same ones, while training goes on, and failures are everybody's."""

import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from asr.runs import checkpoint_writing
from asr.runs.checkpoint import list_checkpoints, newest_intact, read_checkpoint
from asr.runs.checkpoint_folder import CheckpointFolder
from asr.runs.checkpoint_manifest import CheckpointError
from asr.runs.progress import Progress
from distributed.learners.world import World

Folders = Callable[..., CheckpointFolder]
Save = Callable[..., Path]
Steps = Callable[[Path], list[int]]
Run = Callable[..., list[Any]]


class Gate:
    """Holds the files of some learners back until it opens."""

    def __init__(self, patch: pytest.MonkeyPatch, *names: str) -> None:
        self.open = threading.Event()
        write = torch.save

        def waiting(state: object, file: IO[bytes]) -> None:
            if Path(file.name).name in names:
                assert self.open.wait(20)
            write(state, file)

        patch.setattr(torch, "save", waiting)


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, alone: World, folder: Folders, save: Save, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, "learner-0.pt")
    checkpoints = folder(tmp_path, alone, in_background=True)
    progress = Progress(step=1, samples=8, global_step=1)
    written = checkpoints.save(progress, {"a": 1}, {"w": torch.ones(2)}, None)
    progress.global_step = progress.samples = 99  # as training does
    assert not written.exists()
    assert list(tmp_path.glob(".writing-*"))
    gate.open.set()
    checkpoints.finish()
    checkpoints.finish()
    assert read_checkpoint(written).progress == Progress(step=1, samples=8, global_step=1)
    assert steps(tmp_path) == [1]


@pytest.mark.parametrize("needs", ["save", "among_best", "newest"])
def test_who_needs_the_checkpoint_waits_for_it(
    tmp_path: Path, alone: World, folder: Folders, save: Save, needs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, "learner-0.pt")
    checkpoints = folder(tmp_path, alone, keep_best=1, in_background=True)
    save(checkpoints, 1, figure=0.3)
    threading.Timer(0.3, gate.open.set).start()
    if needs == "save":
        save(checkpoints, 2)
        assert (tmp_path / "step-00000001").is_dir()
    elif needs == "among_best":
        assert not checkpoints.among_best(0.4)
    else:
        chosen, _ = checkpoints.newest()
        assert chosen is not None
    checkpoints.finish()


def test_it_is_the_checkpoint_that_would_be_written_at_once(
    tmp_path: Path, run_learners: Run, folder: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_writing, "_LOOK_AGAIN_SECONDS", 0.001)

    def learner(world: World) -> None:
        for background in (False, True):
            checkpoints = folder(tmp_path / str(background), world, in_background=background)
            for step in range(1, 6):
                state = {"model": {"w": torch.ones(3)}, "step": world.rank * step}
                consensus = {"w": torch.full((3,), 2.0)} if world.rank == 0 else None
                checkpoints.save(Progress(step=step, global_step=step), state, consensus, None)
            checkpoints.finish()

    run_learners(3, learner)
    names = {path.relative_to(tmp_path / "True") for path in (tmp_path / "True").rglob("*")}
    assert names == {path.relative_to(tmp_path / "False") for path in (tmp_path / "False").rglob("*")}
    assert len([name for name in names if name.name == "manifest.json"]) == 5
    for name in names:
        if (tmp_path / "True" / name).is_file():
            assert (tmp_path / "True" / name).read_bytes() == (tmp_path / "False" / name).read_bytes()


def test_there_is_one_copy_at_a_time(tmp_path: Path, alone: World, folder: Folders) -> None:
    checkpoints = folder(tmp_path, alone, in_background=True)
    tensor = torch.ones(1000)
    copy = weakref.ref(tensor)
    checkpoints.save(Progress(global_step=1), {"own": tensor}, {"w": torch.ones(1)}, None)
    del tensor
    checkpoints.finish()
    assert copy() is None


@pytest.mark.parametrize("victim", [0, 1])
def test_a_failure_is_everybodys(
    tmp_path: Path, run_learners: Run, folder: Folders, steps: Steps, victim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = torch.save

    def full(state: object, file: IO[bytes]) -> None:
        if file.name.endswith(f"step-00000002/learner-{victim}.pt"):
            raise OSError(28, "No space left on device")
        write(state, file)

    monkeypatch.setattr(torch, "save", full)

    def learner(world: World) -> tuple[str, list[int]]:
        checkpoints = folder(tmp_path, world, keep_last=1, in_background=True)

        def save(step: int) -> None:
            consensus = {"w": torch.ones(1)} if world.rank == 0 else None
            checkpoints.save(Progress(step=step, global_step=step), {"model": {}, "rank": world.rank}, consensus, None)

        save(1)
        save(2)
        with pytest.raises(CheckpointError) as caught:
            checkpoints.finish()
        world.barrier()
        left = steps(tmp_path)
        world.barrier()
        save(3)
        checkpoints.finish()
        return str(caught.value), left

    told = run_learners(2, learner)
    for rank, (line, left) in enumerate(told):
        assert "cannot write checkpoint" in line
        assert "step-00000002" in line
        assert "No space left on device" in line
        assert (f"learner {victim}: " in line) == (rank != victim)
        assert "\n" not in line
        assert left == [1], "the one before is intact"
    assert steps(tmp_path) == [3], "and what failed is not in the way of the next one"
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_a_clear_error_and_spares_the_last_good_one(
    tmp_path: Path, alone: World, folder: Folders, save: Save, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = folder(tmp_path, alone, keep_last=1, in_background=True)
    save(checkpoints, 1)
    save(checkpoints, 2, size=1 << 20)
    with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*step-00000002: File too large; .*are intact"):
        checkpoints.finish()
    assert "File too large" in caplog.text, "said when it happens, not only where learners meet"
    chosen, problems = checkpoints.newest()
    assert chosen is not None
    assert chosen.progress.step == 1
    assert not problems
    save(checkpoints, 2)
    checkpoints.finish()
    assert newest_intact(tmp_path)[0] is not None


def test_a_learner_that_ends_with_an_error_lets_it_become_complete(
    tmp_path: Path, run_learners: Run, folder: Folders, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, "learner-1.pt")

    def learner(world: World) -> None:
        checkpoints = folder(tmp_path, world, in_background=True)
        consensus = {"w": torch.ones(1)} if world.rank == 0 else None
        checkpoints.save(Progress(step=1, global_step=1), {}, consensus, None)
        if world.rank == 1:
            threading.Timer(0.3, gate.open.set).start()
        checkpoints.close()
        checkpoints.close()

    run_learners(2, learner)
    assert steps(tmp_path) == [1]


def test_nobody_waits_long_for_the_file_of_a_learner_that_is_lost(
    tmp_path: Path, run_learners: Run, folder: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_writing, "OTHERS_SECONDS", 0.3)
    gate = Gate(monkeypatch, "learner-1.pt")

    def learner(world: World) -> float:
        checkpoints = folder(tmp_path, world, in_background=True)
        consensus = {"w": torch.ones(1)} if world.rank == 0 else None
        checkpoints.save(Progress(step=1, global_step=1), {}, consensus, None)
        started = time.monotonic()
        if world.rank == 0:
            checkpoints.close()
        return time.monotonic() - started

    assert 0.2 < run_learners(2, learner)[0] < 5
    gate.open.set()
    assert list_checkpoints(tmp_path) == ([], {})
