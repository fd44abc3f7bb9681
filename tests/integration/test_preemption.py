"""A run that is asked to stop, as schedulers do before they take a machine: it saves, and the same command goes on."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from asr.training.stopped import EXIT_CODE
from tests.integration.test_lost_learners import children, ended

STEPS = 80  # more than learners make until all have heard of the signal
RUN = ("batch.units=2", "batch.unit_utterances=2", f"trainer.max_steps={STEPS}", "trainer.checkpoint_every=1000")


@pytest.mark.parametrize(
    ("backend", "victim", "number"),
    [
        ("allreduce", 1, signal.SIGTERM),
        ("dpsgd", 0, signal.SIGINT),
    ],
)
def test_a_signal_to_one_learner_costs_no_step(launcher: Any, backend: str, victim: int, number: int) -> None:
    run = (f"backend={backend}", *RUN, "trainer.log_every=1", "trainer.evaluate_every=1000")
    launcher.train(2, "name=undisturbed", *run)
    folder = launcher.folder / "exp" / "asked"
    printed = stopped(launcher, folder, victim, number, *run)
    step = len(launcher.rows("asked", 0))
    assert 0 < step < STEPS
    assert f"{signal.Signals(number).name} on learner {victim}: saved step {step}; the same command goes on" in printed
    assert "Traceback" not in printed
    again = launcher.train(2, "name=asked", *run)
    assert f"resuming from checkpoint step-{step:08d}" in again
    weights = [
        (launcher.folder / "exp" / name / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors").read_bytes()
        for name in ("asked", "undisturbed")
    ]
    assert weights[0] == weights[1]
    for learner in (0, 1):
        assert launcher.rows("asked", learner) == launcher.rows("undisturbed", learner)


@pytest.mark.parametrize(
    "backend",
    [["backend=adpsgd"], pytest.param(["backend=hierarchical_adpsgd", "backend.group_size=2"], marks=pytest.mark.long)],
)
def test_asynchronous_learners_save_at_the_end_of_a_global_batch(launcher: Any, backend: list[str]) -> None:
    run = (*backend, *RUN, "trainer.log_every=1", "trainer.evaluate_every=1000")
    printed = stopped(launcher, launcher.folder / "exp" / "asked", 1, signal.SIGTERM, *run)
    assert "saved step" in printed
    again = launcher.train(2, "name=asked", *run)
    assert "resuming from checkpoint step-" in again
    units = [launcher.rows("asked", learner)[-1]["data/units"] for learner in (0, 1)]
    assert sum(units) == 2 * STEPS


def test_the_launcher_passes_a_signal_on_and_does_not_restart(launcher: Any) -> None:
    printed = stopped_under_launcher(launcher, "allreduce", lambda pid: os.kill(pid, signal.SIGUSR1))
    assert printed.strip().splitlines()[-1].endswith("the same command goes on")


@pytest.mark.long  # that both learners then end with that code is shown above, that the launcher takes it for no failure in test_launch.py
def test_a_signal_to_a_child_of_the_launcher_is_no_failure(launcher: Any) -> None:
    printed = stopped_under_launcher(launcher, "dpsgd", lambda pid: os.kill(children(pid)[1], signal.SIGTERM))
    assert printed.count("saved step") == 1


def stopped_under_launcher(launcher: Any, backend: str, ask: Callable[[int], None]) -> str:
    """Start two learners with scripts/launch.py and ``ask`` its process to stop; returns what all have printed."""
    run = (f"backend={backend}", *RUN, "trainer.log_every=1", "trainer.evaluate_every=1000")
    started = launcher.start_launcher(2, "name=asked", *run, restarts=3)
    with ended([started]):
        wait_until_logged(launcher.folder / "exp" / "asked", [started])
        ask(started.pid)
        printed, errors = started.communicate(timeout=60)
    assert started.returncode == EXIT_CODE, printed + errors
    return str(printed + errors)


def stopped(launcher: Any, folder: Path, victim: int, number: int, *run: str) -> str:
    """Send a signal to one of two learners once they have trained; returns what learner 0 has printed."""
    learners = launcher.start_each(2, "name=asked", *run)
    with ended(learners):
        wait_until_logged(folder, learners)
        os.kill(learners[victim].pid, number)
        started = time.monotonic()
        printed = [learner.communicate(timeout=60)[0] for learner in learners]
    assert time.monotonic() - started < 10
    assert [learner.returncode for learner in learners] == [EXIT_CODE] * 2, printed
    return str(printed[0])


def wait_until_logged(folder: Path, learners: Sequence[Any]) -> None:
    """Wait for the first row of learner 0."""
    rows = folder / "metrics" / "0.jsonl"
    deadline = time.monotonic() + 100
    while not (rows.exists() and rows.stat().st_size):
        assert all(each.poll() is None for each in learners)
        assert time.monotonic() < deadline
        time.sleep(0.005)
