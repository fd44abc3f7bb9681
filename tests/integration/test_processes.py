"""Forked processes of tests: one that hangs is ended and cannot hold up the suite; and where they listen."""

import os
import socket
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.processes import Forked, Learners, listening

ENDLESS = "import time\nprint('here', flush=True)\ntime.sleep(600)\n"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "endless.py"
    path.write_text(ENDLESS)
    return path


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_process_that_hangs_is_ended(script: Path, tmp_path: Path) -> None:
    process = Forked([str(script)], tmp_path)
    with pytest.raises(AssertionError, match="still runs after 2 s: here"):
        process.wait(2)
    assert not is_there(process.pid)


def test_learners_that_hang_are_ended(script: Path, tmp_path: Path) -> None:
    learners = Learners(lambda **variables: Forked([str(script)], tmp_path, **variables), 2)
    with pytest.raises(AssertionError, match="still run after 2 s"):
        learners.communicate(timeout=2)
    assert not any(map(is_there, learners.pids))


def test_what_listens_is_found_while_other_threads_close_sockets() -> None:
    done = Event()

    def churn() -> None:
        while not done.is_set():
            for each in [socket.socket() for _ in range(20)]:
                each.close()

    thread = Thread(target=churn)
    thread.start()
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            for _ in range(300):
                assert server.getsockname() in listening()
    finally:
        done.set()
        thread.join()
