"""A run under way on one host: nothing of it can be reached from elsewhere, and idle connections do it no harm."""

import errno
import resource
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest

from asr.runs.checkpoint import list_checkpoints
from distributed.learners.environment import SECRET, secret_given
from distributed.learners.liveness import LOOPBACK
from distributed.learners.store import listening_store
from tests.integration.test_lost_learners import LONG, ended, wait_until_under_way
from tests.processes import listening

IDLE = 1000


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """The test process may hold all the idle connections."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("scheme", ["adpsgd", "hierarchical"])
def test_a_thousand_idle_connections_per_port_are_survived(launcher: Any, scheme: str) -> None:
    batch = (
        "batch.units=2",
        "batch.unit_utterances=2",
        *(("backend.group_size=1",) if scheme == "hierarchical" else ()),
    )
    run = launcher.start(2, f"name={scheme}", f"backend={scheme}", *batch, *LONG)
    folder = launcher.folder / "exp" / scheme
    with ended(run.learners):
        wait_until_under_way(folder, run.learners)
        doors = listening(*run.pids)
        assert {address for address, _ in doors} <= {"127.0.0.1", "::1"}
        assert len(doors) >= 4, "each learner has its part in two groups at least"
        for _, port in doors:
            assert connected(port) == 0
        before = newest(folder)
        deadline = time.monotonic() + 60
        while newest(folder) <= before:
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)


def connected(port: int) -> int:
    """How many of so many connections come about within half a second; all are then given up."""
    with ExitStack() as closing, selectors.DefaultSelector() as selector:
        for _ in range(IDLE):
            idle = closing.enter_context(socket.socket())
            idle.setblocking(False)
            assert idle.connect_ex(("127.0.0.1", port)) == errno.EINPROGRESS
            selector.register(idle, selectors.EVENT_WRITE)
        time.sleep(0.5)
        return len(selector.select(0))


def newest(folder: Any) -> int:
    return max((each.progress.step for each in list_checkpoints(folder / "checkpoints")[0]), default=0)


def test_the_secret_is_in_no_store(launcher: Any) -> None:
    """Whoever reaches a store may list all its keys."""
    given = secret_given()
    assert given is not None, f"tests set {SECRET}"
    store = listening_store(LOOPBACK, 0, 2, timedelta(seconds=60))
    learners = launcher.start_hosted(2, store.port, "name=secret", "backend=dpsgd", "trainer.max_steps=2")
    for learner in learners:
        printed, _ = learner.communicate()
        assert learner.returncode == 0, printed
    keys = store.list_keys()
    assert any("liveness" in key for key in keys)
    for key in keys:
        assert given.encode() not in store.get(key)
