"""A run of one learner that is asked to stop: what it does until it does, and what a resume finds."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from asr.runs.checkpoint import list_checkpoints
from asr.runs.progress import Progress
from asr.training.hook import Hook, Run
from asr.training.stopped import StoppedError
from asr.training.trainer import Trainer
from distributed.learners.world import World

Config = Callable[..., DictConfig]
Make = Callable[..., Trainer]
RUN = (
    "backend=single", "hooks=[]", "trainer.max_steps=6", "trainer.evaluate_every=2", "trainer.log_every=1",
    "trainer.checkpoint_every=100",
)  # fmt: skip


class Asked(Hook):
    """Asks for a stop at the end of a step, as a signal does."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.run: Run | None = None

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        self.run = run

    def on_step_end(self, progress: Progress, metrics: dict[str, float]) -> None:
        assert self.run is not None
        if progress.step == self.step:
            self.run.world.gate.ask("SIGTERM on learner 0")


def evaluations(folder: Path) -> list[int]:
    """The global steps of the evaluations in the metrics of learner 0."""
    rows = [json.loads(line) for line in (folder / "metrics" / "0.jsonl").read_text().splitlines()]
    return [row["global_step"] for row in rows if "eval/dev/loss" in row]


def test_an_evaluation_under_way_is_given_up_and_the_step_is_saved(
    small_config: Config, make_trainer: Make, tmp_path: Path, alone: World
) -> None:
    trainer = make_trainer(small_config(*RUN), tmp_path, alone, {"asked": Asked(4)})
    with pytest.raises(StoppedError, match=r"^SIGTERM on learner 0: saved step 4; the same command goes on$"):
        trainer.fit(None)
    trainer.parts.recorder.close()
    assert evaluations(tmp_path) == [2]
    assert [each.progress.global_step for each in list_checkpoints(tmp_path / "checkpoints")[0]][-1] == 4


def test_the_last_evaluation_is_made(small_config: Config, make_trainer: Make, tmp_path: Path, alone: World) -> None:
    trainer = make_trainer(small_config(*RUN), tmp_path, alone, {"asked": Asked(6)})
    trainer.fit(None)
    trainer.parts.recorder.close()
    assert evaluations(tmp_path) == [2, 4, 6]


def test_nothing_is_saved_of_a_run_that_has_not_begun(
    small_config: Config, make_trainer: Make, tmp_path: Path, alone: World
) -> None:
    trainer = make_trainer(small_config(*RUN), tmp_path, alone, {"asked": Asked(-1)})
    alone.gate.ask("SIGTERM on learner 0")
    with pytest.raises(StoppedError, match="nothing was trained yet"):
        trainer.fit(None)
    trainer.parts.recorder.close()
    assert list_checkpoints(tmp_path / "checkpoints") == ([], {})
