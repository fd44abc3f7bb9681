"""A run that its launcher starts again when a learner was lost, as torchrun --max-restarts does."""

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from asr.runs.checkpoint import list_checkpoints
from distributed.learners.liveness import LOOPBACK
from distributed.learners.store import listening_store
from tests.integration.test_lost_learners import children, ended, wait_until_under_way
from tests.processes import listening

RUN = ("backend=allreduce", "batch.units=2", "batch.unit_utterances=2", "trainer.max_steps=20")


@pytest.mark.parametrize("victim", [0, 1])
def test_what_is_left_in_the_launcher_s_store_misleads_nobody(
    launcher: Any, undisturbed: Callable[..., Any], victim: int
) -> None:
    """torch's agent keeps one store for all attempts: addresses of dead learners are still in it."""
    store = listening_store(LOOPBACK, 0, 2, timedelta(seconds=60))
    learners = launcher.start_hosted(2, store.port, "name=killed", *RUN)
    folder = launcher.folder / "exp" / "killed"
    with ended(learners):
        wait_until_under_way(folder, learners)
        os.kill(learners[victim].pid, signal.SIGKILL)
    again = launcher.start_hosted(2, store.port, "name=killed", *RUN)
    for learner in again:
        printed, _ = learner.communicate()
        assert learner.returncode == 0, printed
    assert last_weights(folder) == last_weights(undisturbed(2, *RUN).folder / "exp" / "undisturbed")


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("starter", ["torchrun", "launch.py"])
def test_a_killed_learner_costs_nothing_if_the_launcher_restarts_all(
    launcher: Any, undisturbed: Callable[..., Any], starter: str, victim: int
) -> None:
    start = launcher.start_torchrun if starter == "torchrun" else launcher.start_launcher
    started = start(2, "name=killed", *RUN, restarts=2)
    folder = launcher.folder / "exp" / "killed"
    with ended([started]):
        wait_until_under_way(folder, [started])
        doors = listening(started.pid, *children(started.pid))
        assert doors
        assert starter == "torchrun" or {address for address, _ in doors} == {"127.0.0.1"}
        os.kill(children(started.pid)[victim], signal.SIGKILL)
        printed, _ = started.communicate(timeout=200)
    assert started.returncode == 0, printed
    assert printed.count("resuming from checkpoint step-") == 1, printed
    assert last_weights(folder) == last_weights(undisturbed(2, *RUN).folder / "exp" / "undisturbed")


def last_weights(folder: Path) -> bytes:
    complete, _ = list_checkpoints(folder / "checkpoints")
    assert complete[-1].folder.name == "step-00000020"
    return (complete[-1].folder / "model.safetensors").read_bytes()
