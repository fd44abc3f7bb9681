"""The table of variants: differences are paired by seed and utterance, and belong to all seeds together."""

import json
import os
from itertools import product
from pathlib import Path

import pytest
import torch

from asr.decoding.results import write_results
from asr.decoding.wer import count_errors
from asr.training.checkpoint import MODEL, Retention
from asr.training.checkpoint_folder import CheckpointFolder
from asr.training.hook import Progress
from distributed.launch import World
from scripts.bench.parity import Recipe, main, row, total
from scripts.startup import UsageError


def test_differences_are_paired_and_pooled_over_folds_and_seeds() -> None:
    truth = ["one two", "three", "four five six"]
    runs = list(product(("a", "b"), (1, 2)))
    baseline = {(f, s): {f"{f}/{i}": count_errors(t, t) for i, t in enumerate(truth)} for f, s in runs}
    worse = {**baseline, ("b", 2): {**baseline["b", 2], "b/1": count_errors("three", "tree")}}
    figures = row("worse", ["backend=dpsgd"], worse, baseline)
    assert figures["wer_by_seed"] == {"1": 0.0, "2": pytest.approx(1 / 12)}
    assert figures["wer_by_fold"] == {"a": 0.0, "b": pytest.approx(1 / 12)}
    assert figures["difference"] == figures["wer"] == pytest.approx(1 / 24)
    low, high = figures["difference_interval"]
    assert low <= 1 / 24 <= high
    assert row("same", [], baseline, baseline)["difference_interval"] == (0.0, 0.0)


def test_an_error_that_every_seed_makes_is_one_observation() -> None:
    """More seeds that fail on the same utterance say no more about other utterances."""
    right = {f"/{i}": count_errors("one", "one") for i in range(20)}
    wrong = {**right, "/7": count_errors("one", "two")}
    intervals = [
        row("wrong", [], dict.fromkeys(runs, wrong), dict.fromkeys(runs, right))["difference_interval"]
        for runs in ([("", 1)], [("", 1), ("", 2), ("", 3)])
    ]
    assert intervals[0] == intervals[1]


def test_other_utterances_cannot_be_compared() -> None:
    first = {("", 1): {"/a": count_errors("one", "one")}}
    with pytest.raises(ValueError, match="same utterances"):
        row("other", [], {("", 1): {"/b": count_errors("one", "one")}}, first)
    assert total(first["", 1]).reference_words == 1


class Runs:
    """Stands in for training and evaluation: one checkpoint, one utterance; keeps what was called."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.called: list[str] = []
        self.commands: list[tuple[str, ...]] = []

    def save(self, run: Path, step: int, wer: float) -> Path:
        folder = CheckpointFolder(
            run / "checkpoints", self.world, Retention(keep_last=9, keep_best=1), "Single", plan=1
        )
        weights = {"weight": torch.zeros(1)}
        folder.save(Progress(global_step=step, samples=step), {"model": weights}, weights, wer)
        return run / "checkpoints" / f"step-{step:08d}" / MODEL

    def evaluate(self, run: Path, checkpoint: str) -> None:
        write_results(
            run / "eval" / "test", "greedy", {"a": "one two"}, {"a": "one"}, record={"checkpoint": checkpoint}
        )

    def call(self, _: Recipe, run: Path, *command: str) -> None:
        script = next(Path(each).stem for each in command if each.endswith(".py"))
        self.called.append(script)
        self.commands.append(command)
        if script == "evaluate":
            self.evaluate(run, "step-00000002" if (run / "checkpoints" / "step-00000002").is_dir() else "step-00000001")
        elif not (run / "checkpoints").is_dir():
            self.save(run, 1, wer=0.5)


@pytest.fixture
def runs(alone: World, monkeypatch: pytest.MonkeyPatch) -> Runs:
    made = Runs(alone)
    monkeypatch.setattr(Recipe, "_call", lambda *arguments: made.call(*arguments))
    return made


def test_training_always_has_its_say_and_an_evaluation_counts_for_its_checkpoint_alone(
    runs: Runs, tmp_path: Path
) -> None:
    recipe, run = Recipe("demo", 1, tmp_path, [], "test"), tmp_path / "dpsgd-1"

    def called() -> list[str]:
        runs.called.clear()
        assert recipe.errors("", "dpsgd", [], 1)["/a"].deletions == 1
        return list(runs.called)

    assert called() == ["train", "evaluate"]
    assert called() == ["train"]
    model = runs.save(run, 2, wer=0.1)
    assert called() == ["train", "evaluate"], "there is a better checkpoint"
    runs.evaluate(run, "step-00000001")
    assert called() == ["train", "evaluate"], "the figures are of another checkpoint"
    later = model.stat().st_mtime + 10
    os.utime(model, (later, later))
    assert called() == ["train", "evaluate"], "the checkpoint has been written anew"


def test_a_run_of_another_number_of_learners_is_refused(runs: Runs, tmp_path: Path) -> None:
    Recipe("demo", 1, tmp_path, [], "test").errors("", "dpsgd", [], 1)
    with pytest.raises(UsageError, match=r"--learners 2: .*dpsgd-1 holds a run of 1; choose another --folder"):
        Recipe("demo", 2, tmp_path, [], "test").errors("", "dpsgd", [], 1)


def test_quick_runs_have_a_folder_of_their_own(runs: Runs, tmp_path: Path) -> None:
    arguments = ["--learners", "1", "--folder", str(tmp_path), "--variant", "dpsgd", "backend=dpsgd"]
    main([*arguments, "--quick"])
    assert [each.name for each in tmp_path.iterdir()] == ["quick"]
    main(arguments)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["dpsgd-1", "quick"]
    assert runs.called == ["train", "evaluate"] * 2


def test_folds_have_folders_and_settings_of_their_own(runs: Runs, tmp_path: Path) -> None:
    folds = ["--fold", "ann", "data.held_out=ann", "--fold", "bob", "data.held_out=bob"]
    variants = ["--variant", "plain", "--variant", "noisy", "hooks=[noise]"]
    figures = tmp_path / "parity.json"
    main(["--learners", "1", "--folder", str(tmp_path / "runs"), *folds, *variants, "--json", str(figures)])
    made = sorted(str(each.relative_to(tmp_path / "runs")) for each in (tmp_path / "runs").glob("*/*") if each.is_dir())
    assert made == ["ann/noisy-1", "ann/plain-1", "bob/noisy-1", "bob/plain-1"]
    assert json.loads(figures.read_text())["folds"] == {"ann": ["data.held_out=ann"], "bob": ["data.held_out=bob"]}
    trained = [command for command in runs.commands if any("train.py" in each for each in command)]
    assert ["data.held_out=bob" in each and "hooks=[noise]" in each for each in trained] == [False, False, False, True]
