"""Checkpoints: what is written comes back, damage is found and named, a failed write leaves the earlier ones alone."""

import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from asr.training.checkpoint import (
    CheckpointError,
    CheckpointFolder,
    Retention,
    best_checkpoint,
    list_checkpoints,
    newest_intact,
    read_checkpoint,
)
from asr.training.hook import Progress
from distributed.launch import World


def folder(root: Path, world: World, keep_last: int = 10, keep_best: int = 0, plan: int = 7) -> CheckpointFolder:
    return CheckpointFolder(root, world, Retention(keep_last=keep_last, keep_best=keep_best), "Single", plan)


def save(checkpoints: CheckpointFolder, step: int, wer: float | None = None, size: int = 4) -> Path:
    state = {"model": {"w": torch.full((size,), float(step))}, "best_wer": 0.5, "hooks": {"a": {"n": step}}}
    return checkpoints.save(Progress(step=step, samples=8 * step, global_step=step), state, {"w": torch.ones(2)}, wer)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path, alone: World) -> None:
    written = save(folder(tmp_path, alone), 12, wer=0.25)
    checkpoint = read_checkpoint(written)
    assert checkpoint.progress == Progress(step=12, samples=96, global_step=12)
    assert (checkpoint.world_size, checkpoint.backend, checkpoint.wer) == (1, "Single", 0.25)
    state = checkpoint.learner_state(0, torch.device("cpu"))
    assert torch.equal(state["model"]["w"], torch.full((4,), 12.0))
    assert state["hooks"] == {"a": {"n": 12}}
    assert torch.equal(checkpoint.model_state()["w"], torch.ones(2))
    assert checkpoint.damaged_file() is None
    assert not list(tmp_path.glob(".writing-*"))


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
@pytest.mark.parametrize("name", ["learner-0.pt", "model.safetensors"])
def test_damage_is_named_and_the_checkpoint_before_is_used(
    tmp_path: Path, alone: World, damage: str, name: str
) -> None:
    checkpoints = folder(tmp_path, alone)
    save(checkpoints, 1)
    victim = save(checkpoints, 2) / name
    data = bytearray(victim.read_bytes())
    if damage == "missing":
        victim.unlink()
    else:
        data[len(data) // 2] ^= 1
        victim.write_bytes(data[:-1] if damage == "truncated" else data)
    chosen, problems = checkpoints.newest()
    assert chosen is not None
    assert chosen.progress.step == 1
    assert len(problems) == 1
    assert str(victim) in problems[0]


def test_an_unreadable_manifest_is_reported_and_passed_over(tmp_path: Path, alone: World) -> None:
    checkpoints = folder(tmp_path, alone)
    save(checkpoints, 1)
    (save(checkpoints, 2) / "manifest.json").write_text("{")
    chosen, problems = newest_intact(tmp_path)
    assert chosen is not None
    assert chosen.progress.step == 1
    assert "step-00000002" in problems[0]


def test_pickled_code_is_not_run(tmp_path: Path, alone: World) -> None:
    written = save(folder(tmp_path, alone), 1)

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    torch.save({"model": Trap()}, written / "learner-0.pt")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        read_checkpoint(written).learner_state(0, torch.device("cpu"))
    assert not (tmp_path / "sprung").exists()


def test_retention_keeps_the_last_and_the_best(tmp_path: Path, alone: World) -> None:
    checkpoints = folder(tmp_path, alone, keep_last=2, keep_best=1)
    for step, wer in [(1, 0.5), (2, 0.1), (3, 0.3), (4, None), (5, 0.2)]:
        save(checkpoints, step, wer)
    found, problems = list_checkpoints(tmp_path)
    assert [checkpoint.progress.step for checkpoint in found] == [2, 4, 5]
    assert not problems
    best = best_checkpoint(found)
    assert best is not None
    assert best.progress.step == 2


def test_a_checkpoint_of_other_training_data_is_refused(tmp_path: Path, alone: World) -> None:
    save(folder(tmp_path, alone), 1)
    with pytest.raises(CheckpointError, match=r"step-00000001 was written with other training data"):
        folder(tmp_path, alone, plan=8).newest()


@pytest.fixture
def small_files() -> Iterator[None]:
    """Writing past 64 KiB into any file fails, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_a_clear_error_and_spares_the_last_good_one(tmp_path: Path, alone: World) -> None:
    checkpoints = folder(tmp_path, alone, keep_last=1)
    save(checkpoints, 1)
    with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*step-00000002.*are intact"):
        save(checkpoints, 2, size=1 << 20)
    chosen, problems = checkpoints.newest()
    assert chosen is not None
    assert chosen.progress.step == 1
    assert not problems
    with pytest.raises(CheckpointError, match="cannot write checkpoint"):  # the consensus model alone is too large
        checkpoints.save(Progress(step=3, global_step=3), {}, {"w": torch.ones(1 << 20)}, None)
    assert save(checkpoints, 2).is_dir(), "what the failed attempt left behind must not be in the way"


def test_an_unwritable_folder_is_a_clear_error(tmp_path: Path, alone: World) -> None:
    blocked = tmp_path / "checkpoints"
    blocked.write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match="cannot write checkpoint"):
        save(folder(blocked, alone), 1)


def test_learners_fail_together(
    tmp_path: Path, run_learners: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one learner cannot write its part, none believes that there is a checkpoint."""
    write = torch.save

    def full_for_learner_1(state: object, path: Path) -> None:
        if path.name == "learner-1.pt":
            raise OSError(28, "No space left on device", str(path))
        write(state, path)

    monkeypatch.setattr(torch, "save", full_for_learner_1)

    def learner(world: World) -> str:
        consensus = {"w": torch.ones(1)} if world.rank == 0 else None
        try:
            folder(tmp_path, world).save(Progress(step=1, global_step=1), {"model": {}}, consensus, None)
        except CheckpointError as error:
            return str(error)
        return "written"

    messages = run_learners(2, learner)
    assert all("cannot write checkpoint" in message for message in messages), messages
    assert "No space left" in messages[1]
    assert newest_intact(tmp_path) == (None, [])
