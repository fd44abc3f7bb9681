"""Which checkpoints a model is taken from, and what is said where they are not there."""

import logging
from pathlib import Path

import pytest
import torch

from asr.runs.checkpoint import Retention
from asr.runs.checkpoint_folder import CheckpointFolder
from asr.runs.choice import choose_checkpoints, mean_of, warn_of_best_lost, warn_of_gaps
from asr.runs.progress import Progress
from distributed.errors import UsageError
from distributed.learners.world import World
from scripts.composition.evaluation import check_names
from tests.model_parts import NO_MODEL

WERS = {100: 0.5, 200: 0.1, 300: 0.4, 400: None, 500: 0.2}


@pytest.fixture
def checkpoints(tmp_path: Path, alone: World) -> Path:
    """Checkpoints at steps 200 (the best), 400 and 500 of a run that keeps two and the best."""
    folder = CheckpointFolder(tmp_path, alone, Retention(keep_last=2, keep_best=1), "Single", 1, NO_MODEL, {})
    for step, wer in WERS.items():
        weights = {"weight": torch.tensor([float(step)]), "count": torch.tensor(step)}
        folder.save(Progress(global_step=step, samples=step), {"model": weights}, weights, wer)
    return tmp_path


def names(root: Path, which: str) -> list[int]:
    return [each.progress.global_step for each in choose_checkpoints(root, which)]


def test_best_last_and_the_newest_are_chosen(checkpoints: Path) -> None:
    assert names(checkpoints, "best") == [200]
    assert names(checkpoints, "last") == [500]
    assert names(checkpoints, "avg:2") == [400, 500]
    assert names(checkpoints, "avg:3") == [200, 400, 500]
    mean = mean_of(choose_checkpoints(checkpoints, "avg:2"))
    assert mean["weight"].item() == 450
    assert mean["count"].item() == 500


def test_a_mean_is_summed_in_double_precision(tmp_path: Path, alone: World) -> None:
    """In float32, 2^24 + 1 is 2^24."""
    folder = CheckpointFolder(tmp_path, alone, Retention(keep_last=4, keep_best=0), "Single", 1, NO_MODEL, {})
    for step, value in enumerate((1.0, 2.0**24, 1.0, 0.0), start=1):
        weights = {"weight": torch.tensor([value])}
        folder.save(Progress(global_step=step, samples=step), {"model": weights}, weights, None)
    assert mean_of(choose_checkpoints(tmp_path, "avg:4"))["weight"].item() == 2.0**22 + 0.5


def test_the_best_are_averaged(checkpoints: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert names(checkpoints, "best:1") == names(checkpoints, "best")
    assert names(checkpoints, "best:2") == [200, 500], "400 was not evaluated"
    assert mean_of(choose_checkpoints(checkpoints, "best:2"))["weight"].item() == 350
    with pytest.raises(
        UsageError, match=r"best:3: the run keeps 2 checkpoints with a word error rate \(see checkpoint.ke"
    ):
        choose_checkpoints(checkpoints, "best:3")
    with caplog.at_level(logging.WARNING):
        warn_of_best_lost("best:1", keep_best=1)
        warn_of_best_lost("avg:9", keep_best=1)
        warn_of_gaps(choose_checkpoints(checkpoints, "best:2"), "best:2", every=100)
        assert not caplog.records
        warn_of_best_lost("best:2", keep_best=1)
    assert "keeps its 1 best (checkpoint.keep_best); the others are the best of the last" in caplog.text


@pytest.mark.parametrize("which", ["bset", "avg:0", "avg:-1", "avg:", "avg:x", "avg", "best:0", "best:", "last:1", ""])
def test_what_names_no_checkpoint_is_refused(tmp_path: Path, which: str) -> None:
    with pytest.raises(UsageError, match="must be best, last, avg:N or best:N with N at least 1"):
        choose_checkpoints(tmp_path, which)


def test_unreadable_checkpoints_are_named(checkpoints: Path, caplog: pytest.LogCaptureFixture) -> None:
    (checkpoints / "step-00000400" / "manifest.json").write_text("{")
    assert names(checkpoints, "best") == [200]
    assert "checkpoint passed over: " in caplog.text
    assert "step-00000400" in caplog.text, "it may have been the best"
    with pytest.raises(UsageError, match=r"the run keeps 2 checkpoints.*; .*step-00000400"):
        choose_checkpoints(checkpoints, "avg:3")
    for step in (200, 500):
        (checkpoints / f"step-{step:08d}" / "manifest.json").unlink()
    with pytest.raises(UsageError, match=r"no checkpoint there.*step-00000200.*step-00000400.*step-00000500"):
        choose_checkpoints(checkpoints, "best")


def test_a_mean_over_older_checkpoints_is_warned_of(checkpoints: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_gaps(choose_checkpoints(checkpoints, "avg:2"), "avg:2", every=100)
        assert not caplog.records
        warn_of_gaps(choose_checkpoints(checkpoints, "avg:3"), "avg:3", every=100)
    (record,) = caplog.records
    assert "avg:3: step-00000200, step-00000400, step-00000500 do not follow each other" in record.getMessage()


@pytest.mark.parametrize("sets", [["a/test.jsonl"], ["dev.json", "other", "dev"], ["a/x.jsonl", "test", "b/x.jsonl"]])
def test_a_set_that_would_overwrite_another_ones_results_is_refused(sets: list[str]) -> None:
    with pytest.raises(
        UsageError, match=r"^sets: .*json.* would overwrite the results of another set called .*; rename the file$"
    ):
        check_names(sets)
    check_names(["test", "dev", "a/test-noisy.jsonl", "b/x.jsonl"])


def test_a_split_named_twice_is_refused() -> None:
    with pytest.raises(UsageError, match=r"sets: dev would overwrite .* called dev; name each set once"):
        check_names(["dev", "test", "dev"])
