"""scripts/slurm/job.sh: when a job is requeued and when it ends. squeue and scontrol are small scripts here."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.composition.startup import REPOSITORY

JOB = REPOSITORY / "scripts" / "slurm" / "job.sh"
STOPPED, KILLED = 75, 128 + 10  # with a checkpoint; before there was anything to save


@pytest.fixture
def ended(tmp_path: Path) -> Callable[..., tuple[int, bool]]:
    """``ended(code, *answers)``: exit code of a job whose step ended so, and whether it was requeued; squeue's answers, one each time."""

    def end(code: int, *answers: str) -> tuple[int, bool]:
        (tmp_path / "answers").write_text("".join(f"{each}\n" for each in answers))
        scripts = {
            "squeue": "head -n 1 answers; sed -i 1d answers",
            "scontrol": 'echo "$@" > requeued',
            "sleep": "",
        }
        for name, body in scripts.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
            (tmp_path / name).chmod(0o755)
        (tmp_path / "requeued").unlink(missing_ok=True)
        variables = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURM_SUBMIT_DIR": str(REPOSITORY),
        }
        line = ["bash", "-c", f'source "{JOB}"; asked=SIGUSR1; end_job {code}']
        done = subprocess.run(
            line, cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True, timeout=60
        )
        assert done.stderr == ""
        return done.returncode, (tmp_path / "requeued").exists()

    return end


@pytest.mark.parametrize("left", ["29:30", "5:00", "1:00:02", "2-00:00:08", "UNLIMITED"])
def test_a_job_that_has_trained_nothing_goes_on_where_time_is_left(
    ended: Callable[..., tuple[int, bool]], left: str
) -> None:
    assert ended(KILLED, f"RUNNING {left}") == (0, True)


@pytest.mark.parametrize("left", ["4:59", "0:08", "INVALID"])
def test_a_job_that_has_trained_nothing_ends_near_its_limit_and_one_that_has_saved_goes_on(
    ended: Callable[..., tuple[int, bool]], left: str
) -> None:
    assert ended(KILLED, f"RUNNING {left}") == (KILLED, False)
    assert ended(STOPPED, f"RUNNING {left}") == (0, True)


def test_a_job_that_was_cancelled_ends(ended: Callable[..., tuple[int, bool]]) -> None:
    assert ended(STOPPED, "CANCELLED 29:30") == (STOPPED, False)


def test_squeue_is_asked_again_where_it_does_not_answer(ended: Callable[..., tuple[int, bool]]) -> None:
    assert ended(STOPPED, "", "CANCELLED 29:30") == (STOPPED, False)
    assert ended(STOPPED, "", "RUNNING 29:30") == (0, True)
    assert ended(STOPPED, "", "") == (0, True)
