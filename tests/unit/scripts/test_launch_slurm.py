"""scripts/launch.py as a task of a SLURM step: an agent for the learners of its node, or a learner. Learners are small scripts."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distributed.errors import UsageError
from distributed.learners.environment import SECRET
from scripts.composition import launcher
from scripts.composition.launcher import Launch, launch, launch_options

STEP = {
    "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0",
}  # fmt: skip
NAMES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_USE_AGENT_STORE",
)
OURS = (SECRET, "MURMURATION_LAUNCHER", "OMP_NUM_THREADS", "TORCH_ELASTIC_WORKER_IDENTICAL", *NAMES)


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """``step(body, **variables)``: this process is the task of a step whose entry point is the script ``body``."""
    monkeypatch.setattr(launcher, "REPOSITORY", tmp_path)
    (tmp_path / "scripts").mkdir()
    for name in OURS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def make(body: str, **variables: str) -> None:
        (tmp_path / "scripts" / "train.py").write_text(body)
        for name, value in (STEP | variables).items():
            monkeypatch.setenv(name, value)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield make
    logging.disable(logging.NOTSET)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_the_agent_of_a_node_starts_its_share_of_the_learners(step: Callable[..., None], tmp_path: Path) -> None:
    """It waits for no other agent; learners meet at the first node, and the secret is not this agent's own."""
    step(
        f"import os, sys\nwith open(f'{tmp_path}/' + os.environ['RANK'], 'w') as file:\n"
        f"    print(*(os.environ[name] for name in {NAMES}), '{SECRET}' in os.environ, *sys.argv[1:], file=file)\n"
    )
    assert launch(Launch(2, 0, "train", ["name=run"], slurm=True)) == 0
    said = {path.name: path.read_text().split() for path in tmp_path.glob("[0-9]")}
    assert said == {
        str(2 + local): [str(2 + local), "4", str(local), "2", "n1", "15056", "False", "False", "name=run"]
        for local in (0, 1)
    }


def test_the_agent_restarts_its_learners(step: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> None:
    step("import os, sys\nsys.exit(3 if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0' else 0)")
    assert launch(Launch(1, 1, "train", [], slurm=True)) == 0
    assert "restart 1 of 1" in capfd.readouterr().err


def test_without_learners_of_its_own_the_task_becomes_one(
    step: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class ReplacedError(Exception):
        pass

    def execv(program: str, line: list[str]) -> None:
        raise ReplacedError(program, line, {name: os.environ.get(name) for name in NAMES[:6]})

    step("", SLURM_STEP_TASKS_PER_NODE="1,3", SLURM_PROCID="3", SLURM_LOCALID="2")
    monkeypatch.setattr(os, "execv", execv)
    with pytest.raises(ReplacedError) as replaced:
        launch(Launch(None, 0, "train", ["name=run"], slurm=True))
    program, line, variables = replaced.value.args
    assert (program, line) == (sys.executable, [sys.executable, "-u", f"{tmp_path}/scripts/train.py", "name=run"])
    assert variables == dict(zip(NAMES, ("3", "4", "2", "3", "n1", "15056"), strict=False))


def test_several_tasks_of_a_node_do_not_each_start_learners(step: Callable[..., None]) -> None:
    step("", SLURM_STEP_TASKS_PER_NODE="1,2")
    with pytest.raises(UsageError, match="--learners=2 with 3 SLURM tasks on 2 nodes: leave --learners out"):
        launch(Launch(2, 0, "train", [], slurm=True))


def test_without_slurm_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in STEP:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=r"SLURM_STEP_TASKS_PER_NODE is not set.*leave out --slurm"):
        launch(Launch(2, 0, "train", [], slurm=True))


def test_options() -> None:
    assert launch_options(["--slurm", "train", "name=x"], "") == Launch(None, 0, "train", ["name=x"], slurm=True)
    with pytest.raises(UsageError, match="--restarts=1: a SLURM task that is a learner"):
        launch_options(["--slurm", "--restarts", "1", "train"], "")
