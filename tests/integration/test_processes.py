"""Forked processes of tests: one that does not end by itself is ended, so that a failed test cannot hold up the suite."""

import os
from pathlib import Path

import pytest

from tests.processes import Forked, Learners

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
