"""Checkpoints: what is written comes back, some are kept, and a failed write leaves the earlier ones alone."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
import torch

from asr.runs.checkpoint import (
    best_checkpoint,
    list_checkpoints,
    newest_intact,
    ranked_checkpoints,
    read_checkpoint,
)
from asr.runs.checkpoint_folder import CheckpointFolder
from asr.runs.checkpoint_manifest import CheckpointError
from asr.runs.progress import Progress
from distributed.learners.world import World

Folders = Callable[..., CheckpointFolder]
Save = Callable[..., Path]
Steps = Callable[[Path], list[int]]
Damage = Callable[..., Path]


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path, alone: World, folder: Folders, save: Save) -> None:
    written = save(folder(tmp_path, alone), 12, figure=0.25)
    checkpoint = read_checkpoint(written)
    assert checkpoint.progress == Progress(step=12, samples=96, global_step=12)
    assert (checkpoint.world_size, checkpoint.backend, checkpoint.figure) == (1, "Single", 0.25)
    state = checkpoint.learner_state(0, torch.device("cpu"))
    assert torch.equal(state["model"]["w"], torch.full((4,), 12.0))
    assert state["hooks"] == {"a": {"n": 12}}
    assert torch.equal(checkpoint.model_state()["w"], torch.ones(2))
    assert checkpoint.damaged_file() is None
    assert not list(tmp_path.glob(".writing-*"))


def test_states_of_the_backend_are_read_without_the_rest(
    tmp_path: Path, alone: World, folder: Folders, save: Save
) -> None:
    checkpoint = read_checkpoint(save(folder(tmp_path, alone), 3, size=1 << 22))
    shutil.copy(checkpoint.folder / "learner-0.pt", checkpoint.folder / "learner-1.pt")
    before = bytes_read()
    states = replace(checkpoint, world_size=2).backend_states()
    assert bytes_read() - before < 1 << 20, "16 MiB of weights were read"
    assert [state["round"] for state in states] == [3, 3]
    assert torch.equal(states[1]["w"], torch.full((2,), 3.0))


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def test_other_folders_are_neither_used_nor_retired(tmp_path: Path, alone: World, folder: Folders, save: Save) -> None:
    checkpoints = folder(tmp_path, alone, keep_last=1)
    first = save(checkpoints, 10)
    others = {"step-00000010.bak", "step-00000010-mine", "step-000000099", "step-99"}
    for name in others:
        shutil.copytree(first, tmp_path / name)
    chosen, problems = checkpoints.newest()
    assert chosen is not None
    assert (chosen.folder, problems) == (first, [])
    save(checkpoints, 20)
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000020"} | others


@pytest.mark.parametrize(
    ("earlier", "later", "kept"),
    [
        ((16, 0.5), (20, 0.4), (20, 0.4)),
        ((16, 0.3), (20, 0.4), (16, 0.3)),
        ((16, None), (20, None), (20, None)),
        ((16, 0.3), (20, None), (20, None)),  # other weights: the figure is not theirs
        ((16, 0.3), (16, None), (16, 0.3)),
        ((16, 0.3), (16, 0.3), (16, 0.3)),
    ],
)
def test_two_checkpoints_of_one_name(
    tmp_path: Path,
    alone: World,
    earlier: tuple[int, float],
    later: tuple[int, float],
    kept: tuple[int, float],
    folder: Folders,
) -> None:
    """A last, smaller global batch ends in the same global step."""
    checkpoints = folder(tmp_path, alone)
    for samples, figure in (earlier, later):
        written = checkpoints.save(Progress(samples=samples, global_step=2), {}, {"w": torch.ones(1)}, figure)
    checkpoint = read_checkpoint(written)
    assert (checkpoint.progress.samples, checkpoint.figure) == kept
    assert checkpoint.damaged_file() is None
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_retention_keeps_the_last_and_the_best(tmp_path: Path, alone: World, folder: Folders, save: Save) -> None:
    checkpoints = folder(tmp_path, alone, keep_last=2, keep_best=1)
    for step, figure in [(1, 0.5), (2, 0.1), (3, 0.3), (4, None), (5, 0.2)]:
        save(checkpoints, step, figure)
    found, problems = list_checkpoints(tmp_path)
    assert [checkpoint.progress.step for checkpoint in found] == [2, 4, 5]
    assert not problems
    best = best_checkpoint(found)
    assert best is not None
    assert best.progress.step == 2


def test_the_configured_number_of_best_checkpoints_is_kept(
    tmp_path: Path, alone: World, folder: Folders, save: Save, steps: Steps
) -> None:
    checkpoints = folder(tmp_path, alone, keep_last=1, keep_best=3)
    kept = []
    for step, wer in enumerate([0.5, 0.2, 0.4, 0.3, 0.35, 0.3, 0.9], start=1):
        kept.append(checkpoints.among_best(wer))
        save(checkpoints, step, wer)
    assert kept == [True, True, True, True, True, True, False]
    assert steps(tmp_path) == [2, 4, 6, 7]
    ranked = ranked_checkpoints(list_checkpoints(tmp_path)[0])
    assert [checkpoint.progress.step for checkpoint in ranked] == [2, 6, 4, 7], "the newer of equals first"
    assert not folder(tmp_path, alone, keep_best=0).among_best(0.0)
    assert not folder(tmp_path, alone, keep_best=1).among_best(0.2), "an equal one is no better"


def test_a_checkpoint_of_other_training_data_is_refused(
    tmp_path: Path, alone: World, folder: Folders, save: Save
) -> None:
    save(folder(tmp_path, alone), 1)
    with pytest.raises(CheckpointError, match=r"step-00000001 was written with other training data"):
        folder(tmp_path, alone, plan=8).newest()


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_a_clear_error_and_spares_the_last_good_one(
    tmp_path: Path, alone: World, folder: Folders, save: Save
) -> None:
    checkpoints = folder(tmp_path, alone, keep_last=1)
    save(checkpoints, 1)
    with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*step-00000002: File too large; .*are intact"):
        save(checkpoints, 2, size=1 << 20)
    chosen, problems = checkpoints.newest()
    assert chosen is not None
    assert chosen.progress.step == 1
    assert not problems
    # The consensus model alone is too large: what safetensors raises is an Exception and nothing more.
    with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*SafetensorError.*File too large"):
        checkpoints.save(Progress(step=3, global_step=3), {}, {"w": torch.ones(1 << 20)}, None)
    assert save(checkpoints, 2).is_dir(), "what the failed attempt left behind must not be in the way"


def test_an_unwritable_folder_is_a_clear_error(tmp_path: Path, alone: World, folder: Folders, save: Save) -> None:
    blocked = tmp_path / "checkpoints"
    blocked.write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match="cannot write checkpoint"):
        save(folder(blocked, alone), 1)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (KeyError("round"), "KeyError: 'round'"),
        (RuntimeError("two\nlines"), "two lines"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_learners_fail_together(
    tmp_path: Path,
    run_learners: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    told: str,
    folder: Folders,
) -> None:
    """If one learner cannot write its part, for whatever reason, none believes that there is a checkpoint."""
    write = torch.save

    def failing_for_learner_1(state: object, file: IO[bytes]) -> None:
        if Path(file.name).name == "learner-1.pt":
            raise error
        write(state, file)

    monkeypatch.setattr(torch, "save", failing_for_learner_1)

    def learner(world: World) -> str:
        consensus = {"w": torch.ones(1)} if world.rank == 0 else None
        try:
            folder(tmp_path, world).save(Progress(step=1, global_step=1), {"model": {}}, consensus, None)
        except CheckpointError as raised:
            return str(raised)
        return "written"

    messages = run_learners(2, learner)
    assert all("cannot write checkpoint" in message for message in messages), messages
    assert told in messages[1]
    assert f"learner 1: {told}" in messages[0], "who did its part knows whose it was that failed, and why"
    assert "\n" not in messages[1]
    assert newest_intact(tmp_path) == (None, {})


def resumed(run_learners: Callable[..., list[str]], folder: Folders, roots: list[Path]) -> list[str]:
    """What two learners find, each in its own root: the step or the error."""

    def learner(world: World) -> str:
        try:
            chosen, _ = folder(roots[world.rank], world).newest()
        except CheckpointError as error:
            return str(error)
        return "nothing" if chosen is None else str(chosen.progress.step)

    return run_learners(2, learner)


def test_learners_resume_or_refuse_together(
    tmp_path: Path, alone: World, run_learners: Callable[..., list[str]], folder: Folders, save: Save, damage: Damage
) -> None:
    assert resumed(run_learners, folder, [tmp_path] * 2) == ["nothing"] * 2
    checkpoints = folder(tmp_path, alone)
    save(checkpoints, 1)
    assert resumed(run_learners, folder, [tmp_path] * 2) == ["1"] * 2
    first, second = resumed(run_learners, folder, [tmp_path, tmp_path / "not shared"])
    assert "learner 1: " in first
    assert "not shared/step-00000001/manifest.json" in second
    victim = damage(tmp_path / "step-00000001")
    first, second = resumed(run_learners, folder, [tmp_path] * 2)
    assert f"{victim}: missing, truncated or altered" in first
    assert "cannot resume" in second
