"""kill -9 of any learner, or of all, at any moment: the same command then ends with the bitwise same loss curve.

What is long shows the same laws again, of another backend or number of learners or under torchrun.
"""

import fcntl
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Forked, Learners

STEPS = ("trainer.max_steps=24", "trainer.checkpoint_every=5", "trainer.evaluate_every=10", "seed=3")
RUN = (*STEPS, "model.encoder.hidden=128")
LM_RUN = (*STEPS, "model.predictor.dimension=384")


def learner_pids(run: Learners | Forked) -> list[int]:
    """The learners of a run, by rank."""
    if isinstance(run, Learners):
        return run.pids
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    learners = [pid for pid in children if b"scripts/train" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return sorted(map(int, learners))


def kill_all(run: Learners | Forked) -> None:
    """kill -9 of every learner, and of what started them."""
    for pid in learner_pids(run):
        os.kill(pid, signal.SIGKILL)
    run.kill()


def wait_for_rows(agent: Learners | Forked, path: Path, rows: int) -> None:
    """Until a learner has logged so many rows."""
    deadline = time.monotonic() + 120
    while not path.exists() or len(path.read_text().splitlines()) < rows:
        assert time.monotonic() < deadline, "the run does not get going"
        assert agent.poll() is None, agent.communicate()[0]
        time.sleep(0.02)


def wait_for_checkpoints(agent: Learners | Forked, root: Path, number: int) -> None:
    """Until so many checkpoints are complete: threads write them while training goes on."""
    while len(list(root.glob("step-*"))) < number:
        assert agent.poll() is None, agent.communicate()[0]
        time.sleep(0.01)


def kill_after(launcher: Any, run: Learners | Forked, rows: int, victim: int | None, checkpoints: int = 1) -> None:
    """Wait until learner 0 of a run in exp/killed has logged ``rows`` rows, then kill -9 one learner, or everything."""
    folder = launcher.folder / "exp" / "killed"
    wait_for_rows(run, folder / "metrics" / "0.jsonl", rows)
    wait_for_checkpoints(run, folder / "checkpoints", checkpoints)
    if victim is None:
        kill_all(run)
    else:
        os.kill(learner_pids(run)[victim], signal.SIGKILL)
    run.communicate(timeout=120)
    assert run.returncode != 0


@pytest.mark.parametrize(
    ("backend", "in_background"),
    [("allreduce", True), pytest.param("dpsgd", True, marks=pytest.mark.long), ("allreduce", False)],
)
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    launcher: Any, undisturbed: Callable[..., Any], backend: str, in_background: bool
) -> None:
    whole = undisturbed(2, *RUN, f"backend={backend}")
    run = (*RUN, f"backend={backend}", f"checkpoint.in_background={in_background}")
    agent = launcher.start(2, "name=killed", *run)
    checkpoints = launcher.folder / "exp" / "killed" / "checkpoints"
    while not (list(checkpoints.glob(".writing-*")) and list(checkpoints.glob("step-*"))):
        assert agent.poll() is None, "the run ended before a second checkpoint was seen being written"
        time.sleep(0.0005)  # leaves the core to the learners
    kill_all(agent)
    agent.communicate()
    output = launcher.train(2, "name=killed", *run)
    assert "resuming from checkpoint" in output
    check_same_curves(whole, launcher, 2)


def check_same_curves(whole: Any, launcher: Any, learners: int) -> None:
    for learner in range(learners):
        rows, resumed = whole.rows("undisturbed", learner), launcher.rows("killed", learner)
        assert len(rows) > 24
        assert rows == resumed


@pytest.mark.parametrize(
    ("learners", "backend"),
    [
        (2, "allreduce"),
        pytest.param(2, "dpsgd", marks=pytest.mark.long),
        pytest.param(4, "allreduce", marks=pytest.mark.long),
        (4, "dpsgd"),
    ],
)
def test_killed_run_ends_bitwise_like_an_uninterrupted_one(
    launcher: Any, undisturbed: Callable[..., Any], learners: int, backend: str
) -> None:
    choice = (f"backend={backend}", "+hooks=[diagnostics]", "hooks.diagnostics.probe_batches=2")
    whole = undisturbed(learners, *RUN, *choice)
    again = ("name=killed", *RUN, *choice)
    # The end of one learner is what torchrun answers; where all are killed at once there is nobody left to answer.
    start = launcher.start_torchrun if (learners, backend) == (2, "dpsgd") else launcher.start
    kill_after(launcher, start(learners, *again), 7, learners - 1)  # one learner, between two checkpoints
    kill_after(launcher, launcher.start(learners, *again), 14, None)  # everything at once
    output = launcher.train(learners, "name=killed", *RUN, *choice)
    assert "resuming from checkpoint" in output
    check_same_curves(whole, launcher, learners)
    assert sum("diagnostics/alpha_e" in row for row in launcher.rows("killed", 0)) == 3


@pytest.mark.parametrize("backend", ["dpsgd", pytest.param("allreduce", marks=pytest.mark.long)])
def test_a_language_model_that_is_killed_ends_bitwise_like_one_that_is_not(lm_launcher: Any, backend: str) -> None:
    run = (*LM_RUN, f"backend={backend}")
    lm_launcher.train(2, "name=undisturbed", *run)
    kill_after(lm_launcher, lm_launcher.start(2, "name=killed", *run), 7, 1)
    assert "resuming from checkpoint" in lm_launcher.train(2, "name=killed", *run)
    check_same_curves(lm_launcher, lm_launcher, 2)
    assert "eval/dev/perplexity" in lm_launcher.rows("killed", 0)[-1]


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(launcher: Any, undisturbed: Callable[..., Any]) -> None:
    run = (*RUN, "backend=allreduce")
    whole = undisturbed(2, *run)
    kill_after(launcher, launcher.start(2, "name=killed", *run), 13, None, checkpoints=2)
    newest = sorted((launcher.folder / "exp" / "killed" / "checkpoints").glob("step-*"))[-1]
    victim = newest / "learner-1.pt"
    victim.write_bytes(victim.read_bytes()[:-100])
    output = launcher.train(2, "name=killed", *run)
    assert f"{newest.name}/learner-1.pt: missing, truncated or altered" in output
    assert f"resuming from checkpoint {newest.name}" not in output
    check_same_curves(whole, launcher, 2)


def test_allreduce_goes_on_with_another_number_of_learners(launcher: Any) -> None:
    """The plan does not depend on the number of learners, so the curve goes on, to rounding, and the log says so."""
    launcher.train(2, "name=whole", *RUN, "model.encoder.dropout=0")
    kill_after(launcher, launcher.start(2, "name=killed", *RUN, "model.encoder.dropout=0"), 8, None)
    output = launcher.train(4, "name=killed", *RUN, "model.encoder.dropout=0")
    assert "written by 2 learners, going on with 4 under the same batch plan" in output
    whole, resumed = launcher.rows("whole", 0), launcher.rows("killed", 0)
    assert [row["samples"] for row in whole] == [row["samples"] for row in resumed]
    losses = [
        (one["train/loss"], other["train/loss"])
        for one, other in zip(whole, resumed, strict=True)
        if "train/loss" in one
    ]
    assert all(abs(one - other) <= 1e-4 * one for one, other in losses)


def test_a_second_start_in_the_same_folder_is_refused(launcher: Any) -> None:
    """Learners outlive a launcher that is killed alone; a second group must not write over theirs."""
    folder = launcher.folder / "exp" / "busy"
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as a learner that is still training does
        output = launcher.train(2, "name=busy", *RUN, expect=1)
        # by each learner, unless its launcher ends it first
        assert re.search(r"error on learner [01]: another process is training in exp/busy", output), output
    launcher.train(2, "name=busy", *RUN)
