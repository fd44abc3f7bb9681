"""Learners that never meet: who is missing is said in one line, within the time that the configuration grants."""

import os
import signal
import time
from functools import partial
from typing import Any

import pytest

from tests.processes import Forked, connected, free_port

RUN = ("backend=dpsgd", "batch.units=3", "batch.unit_utterances=2")


class Some:
    """Learners of a run of three, of which not all are started."""

    def __init__(self, launcher: Any, *overrides: str) -> None:
        run = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        host = {"LOCAL_WORLD_SIZE": "3"}
        self._start = partial(Forked, launcher.script_line([*RUN, *overrides]), launcher.folder, **run, **host)
        self.learners: dict[int, Forked] = {}
        self.started = time.monotonic()

    def start(self, *ranks: int) -> None:
        for rank in ranks:
            self.learners[rank] = self._start(RANK=str(rank), LOCAL_RANK=str(rank))

    def last_lines(self, *ranks: int) -> list[str]:
        """Of what these learners printed, in which there is no traceback; they end with 1."""
        lines = []
        for rank in ranks:
            printed, _ = self.learners[rank].communicate(timeout=60)
            assert self.learners[rank].returncode == 1, printed
            assert "Traceback" not in printed
            lines.append(printed.splitlines()[-1])
        self.seconds = time.monotonic() - self.started
        return lines


def test_a_learner_that_never_comes_is_named_by_all_others(launcher: Any) -> None:
    some = Some(launcher, "name=missing", "launch.join_seconds=3")
    some.start(0, 1)
    line = (
        "error on learner {}: the learners have not met: learner 2 has not come within 3 seconds (launch.join_seconds); "
        "see why in its log, then start the run again"
    )
    assert some.last_lines(0, 1) == [line.format(0), line.format(1)]
    assert not (launcher.folder / "exp").exists()


def test_a_missing_learner_0_is_named_too(launcher: Any) -> None:
    some = Some(launcher, "name=missing", "launch.join_seconds=2")
    some.start(1)
    (line,) = some.last_lines(1)
    assert "the learners have not met: learner 0 has not come within 2 seconds (launch.join_seconds)" in line


@pytest.mark.parametrize(("victim", "blow"), [(2, signal.SIGKILL), (0, signal.SIGKILL), (2, signal.SIGSTOP)])
def test_a_learner_that_is_lost_while_it_joins_is_named(launcher: Any, victim: int, blow: signal.Signals) -> None:
    some = Some(launcher, "name=lost", "launch.join_seconds=50", "launch.patience_seconds=2")
    some.start(0, 2)
    others = [2] if victim == 0 else [0]
    deadline = time.monotonic() + 40
    while len(connected(some.learners[2].pid)) < 2:  # to the store, and to learner 0
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)  # who is connected introduces itself next; one that is stopped before that has not come
    os.kill(some.learners[victim].pid, blow)
    some.started = time.monotonic()
    (line,) = some.last_lines(*others)
    assert f"the learners have not met: learner {victim} has " in line
    assert some.seconds < 10
    some.learners[victim].end()
