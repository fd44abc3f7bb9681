"""A start that fails leaves what was there before; a run that was established, or is another process's, is left alone."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from distributed.errors import UsageError
from distributed.learners.world import World
from scripts.composition.build import build_hooks
from scripts.composition.run_start import Start, log_traceback, settings_of, training_in
from scripts.composition.trainer import assemble


def begin(folder: Path, rank: int) -> None:
    """What a start makes before anything is trained."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    (folder / "logs" / f"rank-{rank}.log").write_text("begun\n")
    if rank == 0:
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer" / "tokenizer.json").write_text("{}")
        (folder / "config.yaml").write_text("seed: 1")


def start(folder: Path, world: World, then: Callable[[], object]) -> None:
    with training_in(folder, world):
        begin(folder, world.rank)
        world.barrier()
        then()
        raise UsageError("does not fit")


def fail(folder: Path, world: World, then: Callable[[], object] = lambda: None) -> None:
    """A start that fails after ``then``."""
    with pytest.raises(UsageError, match="does not fit"):
        start(folder, world, then)


def end_during_start(start: Start, trained: bool) -> None:
    with start.until_fit():
        begin(start.folder, start.rank)
        (start.folder / "checkpoints").mkdir()
        if trained:
            (start.folder / "checkpoints" / "step-00000001").mkdir()
        os.kill(os.getpid(), signal.SIGTERM)


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_a_failed_start_leaves_no_folder(tmp_path: Path, alone: World) -> None:
    fail(tmp_path / "exp" / "group" / "a", alone)
    assert tree(tmp_path) == []


def test_what_was_there_before_stays(tmp_path: Path, alone: World) -> None:
    folder = tmp_path / "exp" / "a"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "old.log").write_text("")
    (folder / "notes").mkdir()
    before = tree(tmp_path)
    fail(folder, alone)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["metrics/0.jsonl", "checkpoints/step-00000001", "bad_batches/rank-0.pt"])
def test_what_was_trained_stays_with_all_that_belongs_to_it(tmp_path: Path, alone: World, name: str) -> None:
    file = tmp_path / "a" / name
    fail(tmp_path / "a", alone, then=lambda: (file.parent.mkdir(), file.write_text("")))
    assert {"a/config.yaml", "a/logs/rank-0.log", "a/tokenizer/tokenizer.json", f"a/{name}"} < set(tree(tmp_path))


def test_what_was_trained_stays_before_anything_of_it_is_written(tmp_path: Path, alone: World) -> None:
    """A run that is broken off before its first row keeps its log, with the traceback in it."""
    folder = tmp_path / "exp" / "run"

    def broken_off() -> None:
        with training_in(folder, alone) as begun:
            begin(folder, 0)
            begun.has_trained = lambda: True
            raise UsageError("does not fit")

    with pytest.raises(UsageError, match="does not fit"):
        broken_off()
    assert (folder / "logs" / "rank-0.log").is_file()


def test_a_run_of_before_stays(tmp_path: Path, alone: World) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("seed: 1")
    fail(tmp_path / "a", alone)
    assert "a/logs/rank-0.log" in tree(tmp_path)


def test_a_folder_that_cannot_be_made_leaves_no_part_of_its_path(tmp_path: Path, alone: World) -> None:
    name = "n" * 300
    with pytest.raises(OSError, match="too long"), training_in(tmp_path / "exp" / name, alone):
        raise AssertionError("nothing was there to train in")
    assert tree(tmp_path) == []


def test_one_training_at_a_time_and_the_second_touches_nothing(tmp_path: Path, alone: World) -> None:
    folder = tmp_path / "a"
    with training_in(folder, alone):
        begin(folder, 0)
        before = tree(tmp_path)
        with (
            pytest.raises(UsageError, match=r"another process is training in .*/a: stop it"),
            training_in(folder, alone),
        ):
            raise AssertionError("two trainings in one folder")
        assert tree(tmp_path) == before


def test_learners_that_fail_leave_no_folder(tmp_path: Path, run_learners: Callable[..., list[Any]]) -> None:
    run_learners(3, lambda world: fail(tmp_path / "exp" / "a", world))
    assert tree(tmp_path) == []


@pytest.mark.parametrize("trained", [False, True])
def test_a_learner_ended_by_its_launcher_at_the_start_leaves_no_folder(tmp_path: Path, trained: bool) -> None:
    folder = tmp_path / "exp" / "a"
    pid = os.fork()
    if pid == 0:
        try:
            end_during_start(Start(folder, 0, {tmp_path, *tmp_path.parents}), trained)
        finally:
            os._exit(0)  # this copy of the test's process has nothing else to do
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGTERM
    assert folder.exists() == trained
    assert (tmp_path / "exp").exists() == trained


def test_signals_are_as_before_once_the_run_begins(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Start(tmp_path, 0, set()).until_fit():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_traceback_goes_to_a_log_that_is_there_and_makes_none(tmp_path: Path) -> None:
    log_traceback(tmp_path, rank=0)
    assert tree(tmp_path) == []
    (tmp_path / "logs").mkdir()
    try:
        raise ValueError("why")
    except ValueError:
        log_traceback(tmp_path, rank=0)
    assert "ValueError: why" in (tmp_path / "logs" / "rank-0.log").read_text()


def test_checkpoints_tell_all_settings_but_those_that_may_change(
    small_config: Callable[..., DictConfig], tmp_path: Path, alone: World
) -> None:
    own = ("backend=single", "hooks=[spec_augment]")
    config = small_config(*own, "optimizer.lr=0.25")
    trainer = assemble(config, tmp_path, alone, build_hooks(config))
    told = trainer.parts.checkpoints.settings
    assert told["optimizer.lr"] == 0.25
    assert told["the order of hooks"] == ["spec_augment"]
    assert "hooks.spec_augment.time_masks" in told
    assert not [key for key in told if key.split(".")[0] in ("name", "exp_dir", "loader", "launch", "checkpoint")]
    free = small_config(*own, "optimizer.lr=0.25", "launch.threads=7", "name=b", "trainer.log_every=3")
    assert settings_of(free) == told
    assert settings_of(small_config(*own, "optimizer.lr=0.5")) != told
