"""Checkpoints by time: learner 0's clock decides for all, at steps that all know, in few messages."""

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import DictConfig
from torch import Tensor

from asr.runs.checkpoint import list_checkpoints
from asr.training.clock import ANSWERS, CheckpointClock
from asr.training.trainer import Trainer
from distributed.learners.world import World
from tests.schemes import SCHEMES

Make = Callable[..., Trainer]
Run = Callable[..., list[Any]]


class Walk:
    """Steps of given seconds, and the clock that watches them."""

    def __init__(self, world: World, every_minutes: float | None) -> None:
        self.seconds = 0.0
        self.clock = CheckpointClock(world, every_minutes, lockstep=True, now=lambda: self.seconds)
        self.clock.start(0)
        self.step = 0
        self.due: list[float] = []  # seconds at which a checkpoint was due

    def go(self, seconds: float, steps: int) -> None:
        for _ in range(steps):
            self.step += 1
            self.seconds += seconds
            if self.clock.due(self.step):
                self.due.append(self.seconds)
                self.clock.restart()


def test_no_interval_makes_none_due(alone: World) -> None:
    walk = Walk(alone, None)
    walk.go(100.0, 50)
    assert walk.due == []
    assert walk.clock.planned_mark("a", 3) is None


@pytest.mark.parametrize("seconds", [0.01, 0.7, 25.0, 70.0, 200.0])
def test_checkpoints_are_due_an_interval_apart(alone: World, seconds: float) -> None:
    """To the step that an interval of one minute ends in."""
    walk = Walk(alone, 1.0)
    walk.go(seconds, max(10, int(600 / seconds)))
    gaps = [later - earlier for earlier, later in zip([0.0, *walk.due], walk.due, strict=False)]
    assert len(gaps) >= 8
    assert all(60.0 - 1e-6 <= gap <= 60.0 + max(seconds, 1.0) for gap in gaps if seconds < 60), gaps
    assert all(gap == seconds for gap in gaps if seconds >= 60)


def test_a_change_of_pace_delays_a_checkpoint_by_its_share_of_a_tenth(alone: World) -> None:
    walk = Walk(alone, 1.0)
    walk.go(0.1, 300)
    walk.go(0.5, 300)  # five times slower: what was planned as 6 seconds takes 30
    assert walk.due[0] <= 60.0 + 5 * 6.0
    assert len(walk.due) >= 2
    assert walk.due[1] - walk.due[0] <= 61.0


def test_an_interval_takes_few_messages(alone: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def broadcast(world: World, tensor: Tensor, source: int) -> Tensor:
        asked.append(walk.step)
        return tensor

    monkeypatch.setattr(World, "broadcast", broadcast)
    walk = Walk(alone, 1.0)
    walk.go(0.001, 300_000)
    assert len(walk.due) in (4, 5)
    assert len(asked) <= 5 * (ANSWERS + 3)


def test_the_clock_of_learner_0_decides_for_all(run_learners: Run) -> None:
    def learner(world: World) -> tuple[list[int], list[int]]:
        seconds = 0.0
        clock = CheckpointClock(world, 1.0, lockstep=True, now=lambda: seconds)
        clock.start(0)
        due, asked = [], []
        for step in range(1, 200):
            seconds += (1.0, 7.0, 0.01)[world.rank]  # clocks that do not agree at all
            before = clock.next_answer
            if clock.due(step):
                due.append(step)
                clock.restart()
            if clock.next_answer != before:
                asked.append(step)
        return due, asked

    first, *others = run_learners(3, learner)
    assert first[0] == [60, 120, 180]
    assert all(other == first for other in others)
    assert len(first[1]) < 45


def test_learners_of_a_pool_end_a_stretch_at_one_mark(run_learners: Run) -> None:
    def learner(world: World) -> list[int | None]:
        clock = CheckpointClock(world, 1.0, lockstep=False, now=lambda: 100.0 * world.rank)
        clock.start(0)
        clock.seconds_per_step = (1.0, 0.1, 3.0)[world.rank]
        return [clock.planned_mark(f"stretch {step}", step) for step in (0, 40, 90)]

    plans = run_learners(3, learner)
    assert plans[0] == plans[1] == plans[2]
    assert all(end is not None and end > step for step, end in zip((0, 40, 90), plans[0], strict=True))


@pytest.mark.parametrize("scheme", ["allreduce", "dpsgd", "adpsgd"])
def test_runs_write_checkpoints_by_time(
    scheme: str, small_config: Callable[..., DictConfig], make_trainer: Make, run_learners: Run, tmp_path: Any
) -> None:
    """A second passes with every global step on learner 0, three on learner 1; the interval has six seconds."""
    steps = ("hooks=[]", "evaluation.sets=[]", "trainer.max_steps=40", "checkpoint.keep_last=99")
    config = small_config(*SCHEMES[scheme].overrides(2), *steps, "checkpoint.every_minutes=0.1")

    def learner(world: World) -> int:
        trainer = make_trainer(config, tmp_path, world)
        trainer.parts.clock.now = lambda: (1.0, 3.0)[world.rank] * trainer.progress.global_step
        trainer.fit(None)
        trainer.parts.recorder.close()
        return trainer.units

    units = run_learners(2, learner)
    assert sum(units) == 40 * 4, "every unit of the plan is processed once"
    found, problems = list_checkpoints(tmp_path / "checkpoints")
    assert not problems
    written = [each.progress.global_step for each in found]
    assert written[-1] == 40
    gaps = [later - earlier for earlier, later in zip([0, *written], written[:-1], strict=False)]
    if SCHEMES[scheme].lockstep:
        assert set(gaps) == {6}
    else:
        assert len(gaps) >= 4
        assert all(6 <= gap <= 9 for gap in gaps), gaps
