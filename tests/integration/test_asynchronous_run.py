"""Asynchronous gossip in whole runs: every unit is processed once, learners meet at marks, a killed run goes on."""

import json
import time
from typing import Any

import pytest

LEARNERS = 4
GLOBAL_BATCHES = (
    24  # of four units, as many as learners or twice as many; so many steps come on each learner in the mean
)
RUN = (
    "backend=adpsgd",
    f"trainer.max_steps={GLOBAL_BATCHES}",
    "trainer.checkpoint_every=6",
    "trainer.evaluate_every=12",
)


def steps_taken(launcher: Any, name: str, learners: int) -> list[int]:
    """Steps of each learner according to its last row."""
    return [max(int(str(row["step"])) for row in launcher.rows(name, learner)) for learner in range(learners)]


def evaluations(launcher: Any, name: str) -> list[tuple[object, object]]:
    rows = launcher.rows(name, 0)
    return [(row["samples"], row["eval/dev/wer"]) for row in rows if "eval/dev/wer" in row]


def test_every_unit_is_processed_once_and_learners_meet_at_marks(launcher: Any) -> None:
    output = launcher.train(LEARNERS, "name=whole", *RUN)
    assert sum(steps_taken(launcher, "whole", LEARNERS)) == LEARNERS * GLOBAL_BATCHES, output
    for learner in range(LEARNERS):
        marks = [row for row in launcher.rows("whole", learner) if "eval/dev/wer" in row]
        assert [row["samples"] for row in marks] == [each for each, _ in evaluations(launcher, "whole")]
        assert len(marks) == 2
    metrics = [json.loads(line) for line in (launcher.folder / "exp/whole/metrics/1.jsonl").read_text().splitlines()]
    assert any(row.get("comm/rounds", 0) > 0 for row in metrics)


@pytest.mark.parametrize(
    ("size", "when"), [(LEARNERS, ()), (2, ("trainer.checkpoint_every=1000", "checkpoint.every_minutes=0.002"))]
)
def test_a_killed_run_goes_on_from_its_checkpoint_and_misses_no_unit(
    launcher: Any, size: int, when: tuple[str, ...]
) -> None:
    """By steps and by time: then learners agree on the way where they meet."""
    run = (*RUN, *when)
    learners = launcher.start(size, "name=killed", *run)
    checkpoints = launcher.folder / "exp" / "killed" / "checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("step-*")):
        assert learners.poll() is None, "the run ended first"
        assert time.monotonic() < deadline, "no checkpoint appears"
        time.sleep(0.05)
    learners.kill()
    learners.communicate()
    output = launcher.train(size, "name=killed", *run)
    assert "resuming from checkpoint" in output
    assert sum(steps_taken(launcher, "killed", size)) == size * GLOBAL_BATCHES
