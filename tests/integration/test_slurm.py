"""Runs under a real SLURM of two virtual nodes: submitted, asked to save, preempted, requeued, resumed, cancelled.

scripts/dev/slurm_sandbox.sh installs it (`make test-slurm`); without root or SLURM the tests are skipped. All that submit jobs are
long: each job starts fresh interpreters through SLURM, and the run that they are compared with alone takes most of a minute.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts.composition.startup import REPOSITORY
from tests.conftest import SMALL_LSTM, SMALL_RUN

SANDBOX = REPOSITORY / "scripts" / "dev" / "slurm_sandbox.sh"
BATCH = REPOSITORY / "scripts" / "slurm"
MISSING = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(name) is None]
STEPS = 150  # more than learners make until a signal has come through SLURM to them
RUN = (
    "backend=allreduce", "batch.units=2", "batch.unit_utterances=2", f"trainer.max_steps={STEPS}", "trainer.epochs=1000",
    "trainer.evaluate_every=100000", "trainer.checkpoint_every=100000",
)  # fmt: skip

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="the SLURM sandbox needs root"),
    pytest.mark.skipif(bool(MISSING), reason=f"SLURM is not installed ({', '.join(MISSING)}): make test-slurm"),
]


@dataclass(frozen=True)
class Slurm:
    """The sandbox, and the folder in which jobs are submitted and run."""

    sandbox: Path
    folder: Path

    def call(self, *line: str, **variables: str) -> str:
        """Run a command inside and return what it prints."""
        command = [str(SANDBOX), "exec", str(self.sandbox), *line]
        done = subprocess.run(
            command, cwd=self.folder, env=os.environ | variables, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, script: str, *arguments: str, options: Sequence[str] = (), **variables: str) -> str:
        """Submit a batch script with ``options`` of sbatch; the job's number."""
        ours = {"MURMURATION_CODE": str(REPOSITORY), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"} | variables
        return self.call("sbatch", "--parsable", *options, str(BATCH / script), *arguments, **ours).strip()

    def job(self, number: str) -> Mapping[str, str]:
        """What SLURM knows of a job: JobState, Restarts, ExitCode, NodeList, ..."""
        return dict(re.findall(r"(\w+)=(\S*)", self.call("scontrol", "--oneliner", "show", "job", number)))

    def wait(self, number: str, seconds: float = 400) -> Mapping[str, str]:
        """Wait for the end of a job that may be requeued meanwhile."""
        return self.until(number, lambda job: job["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), seconds)

    def until(self, number: str, holds: Callable[[Mapping[str, str]], bool], seconds: float = 200) -> Mapping[str, str]:
        """Wait until something holds of a job; AssertionError with its output after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not holds(job := self.job(number)):
            assert time.monotonic() < deadline, f"{job}\n{self.printed(number)}"
            time.sleep(0.2)
        return job

    def printed(self, number: str) -> str:
        """The output of a job, of all its starts."""
        path = self.folder / f"slurm-{number}.out"
        return path.read_text() if path.exists() else ""

    def rows(self, name: str, learner: int) -> list[dict[str, Any]]:
        """The metric rows of a learner, without what depends on the clock."""
        path = self.folder / "exp" / name / "metrics" / f"{learner}.jsonl"
        clock = ("time/", "throughput/", "wall_seconds", "comm/")
        lines = path.read_text().splitlines() if path.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("}")]
        return [{key: value for key, value in row.items() if not key.startswith(clock)} for row in rows]

    def until_trained(self, name: str, number: str, steps: int = 3) -> None:
        """Wait until the first learner of a run has made some steps."""
        self.until(number, lambda _: len(self.rows(name, 0)) >= steps)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A sandbox that has started; it is stopped with all that runs in it."""
    folder = tmp_path_factory.mktemp("slurm")
    sandbox = Slurm(folder / "sandbox", folder / "work")
    sandbox.folder.mkdir()
    subprocess.run([SANDBOX, "start", sandbox.sandbox], check=True, timeout=60, stdout=subprocess.DEVNULL)
    yield sandbox
    subprocess.run([SANDBOX, "stop", sandbox.sandbox], check=True, timeout=60)


@pytest.fixture(scope="module")
def run_of(tiny_corpus: Path) -> Callable[..., list[str]]:
    """The overrides of a run of two learners on the tiny corpus."""
    return lambda name: [*SMALL_RUN, f"data.root={tiny_corpus}", *SMALL_LSTM, *RUN, f"name={name}"]


@pytest.fixture(scope="module")
def undisturbed(slurm: Slurm, run_of: Callable[..., list[str]]) -> list[list[dict[str, Any]]]:
    """The rows of two learners, on a node each, that nothing happens to."""
    job = slurm.wait(number := slurm.submit("multi_node.sbatch", *run_of("undisturbed")))
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), slurm.printed(number)
    assert job["NodeList"] == "n[1-2]"
    return [slurm.rows("undisturbed", learner) for learner in (0, 1)]


def test_the_sandbox_refuses_a_folder_that_others_made(tmp_path: Path) -> None:
    foreign, link = tmp_path / "foreign", tmp_path / "link"
    foreign.mkdir()
    link.symlink_to(tmp_path)
    os.chown(foreign, 12345, -1)
    for folder in (str(foreign), f"{foreign}/", str(link), f"{link}/"):
        done = subprocess.run([SANDBOX, "start", folder], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert "not a folder of root's own" in done.stderr
    assert list(foreign.iterdir()) == []


def assert_is_undisturbed(slurm: Slurm, name: str, undisturbed: list[list[dict[str, Any]]]) -> None:
    for learner in (0, 1):
        assert slurm.rows(name, learner) == undisturbed[learner]


@pytest.mark.long
def test_two_nodes_train_one_run(slurm: Slurm, undisturbed: list[list[dict[str, Any]]]) -> None:
    assert [row["step"] for row in undisturbed[0]][-1] == STEPS
    losses = [[row["train/loss"] for row in rows if "train/loss" in row] for rows in undisturbed]
    assert len(losses[0]) == STEPS
    assert losses[0] == losses[1]
    folder = slurm.folder / "exp" / "undisturbed"
    assert json.loads((folder / "summary.json").read_text())["learners"] == 2
    assert sorted(path.name for path in (folder / "logs").iterdir()) == ["rank-0.log", "rank-1.log"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "script", "options", "learners"),
    [
        ("agents", "multi_node.sbatch", (), "1"),
        ("tasks", "multi_node.sbatch", ("--nodes=1", "--ntasks=2"), "1"),
        ("one-node", "train.sbatch", (), "2"),
    ],
)
def test_asked_by_usr1_a_job_saves_is_requeued_and_goes_on(
    slurm: Slurm, run_of: Callable[..., list[str]], undisturbed: list[list[dict[str, Any]]],
    name: str, script: str, options: Sequence[str], learners: str,
) -> None:  # fmt: skip
    number = slurm.submit(script, *run_of(name), options=options, LEARNERS=learners)
    slurm.until_trained(name, number)
    slurm.call("scancel", "--batch", "--signal=USR1", number)  # as --signal=B:USR1@120 does before the limit
    job = slurm.wait(number)
    printed = slurm.printed(number)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), printed
    assert len(re.findall(r"SIGUSR1 on learner \d: saved step \d+; the same command goes on", printed)) == 1, printed
    assert printed.count("resuming from checkpoint step-") == 1, printed
    assert "Traceback" not in printed
    assert_is_undisturbed(slurm, name, undisturbed)


@pytest.mark.long
def test_asynchronous_learners_with_a_task_each_process_every_unit_once(
    slurm: Slurm, run_of: Callable[..., list[str]]
) -> None:
    arguments = [each for each in run_of("asynchronous") if not each.startswith(("backend=", "batch.units="))]
    number = slurm.submit(
        "multi_node.sbatch",
        *arguments,
        "batch.units=3",
        "backend=adpsgd",
        options=("--nodes=2", "--ntasks=3"),
        **{"OMP_NUM_THREADS": "1"},
    )
    slurm.until_trained("asynchronous", number)
    slurm.call("scancel", "--batch", "--signal=USR1", number)
    job = slurm.wait(number)
    printed = slurm.printed(number)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), printed
    assert printed.count("resuming from checkpoint step-") == 1, printed
    assert "Traceback" not in printed
    last = [slurm.rows("asynchronous", learner)[-1] for learner in range(3)]
    assert [row["global_step"] for row in last] == [STEPS] * 3
    assert sum(row["data/units"] for row in last) == 3 * STEPS


@pytest.mark.long
def test_a_job_that_is_preempted_saves_and_goes_on_afterwards(
    slurm: Slurm, run_of: Callable[..., list[str]], undisturbed: list[list[dict[str, Any]]]
) -> None:
    number = slurm.submit("multi_node.sbatch", *run_of("preempted"))
    slurm.until_trained("preempted", number)
    urgent = slurm.call(
        "sbatch", "--parsable", "--partition=high", "--nodes=2", "--exclusive", "--wrap", "sleep 1"
    ).strip()
    assert slurm.wait(urgent)["JobState"] == "COMPLETED"
    job = slurm.wait(number)
    printed = slurm.printed(number)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), printed
    assert printed.count("resuming from checkpoint step-") == 1, printed
    assert_is_undisturbed(slurm, "preempted", undisturbed)


@pytest.mark.long
def test_before_its_time_limit_a_job_saves_and_goes_on(slurm: Slurm, run_of: Callable[..., list[str]]) -> None:
    """The signal comes 90 s after each start, of which SLURM may take a minute off."""
    endless = [*run_of("limited"), "trainer.max_steps=100000"]
    number = slurm.submit("train.sbatch", *endless, options=["--time=4", "--signal=B:USR1@150"], LEARNERS="2")
    slurm.until(number, lambda job: job["Restarts"] == "1" and job["JobState"] == "RUNNING", 300)
    slurm.until(number, lambda _: "resuming from checkpoint step-" in slurm.printed(number))
    slurm.call("scancel", number)
    assert slurm.wait(number)["JobState"] == "CANCELLED"


@pytest.mark.long
def test_a_job_that_its_user_cancels_stays_cancelled(slurm: Slurm, run_of: Callable[..., list[str]]) -> None:
    number = slurm.submit("train.sbatch", *run_of("cancelled"), LEARNERS="2")
    slurm.until_trained("cancelled", number)
    slurm.call("scancel", number)
    assert slurm.wait(number)["JobState"] == "CANCELLED"
    assert slurm.job(number)["Restarts"] == "0"
    assert any((slurm.folder / "exp" / "cancelled" / "checkpoints").glob("step-*")), slurm.printed(number)


@pytest.mark.long
def test_a_learner_that_is_killed_costs_a_restart_of_all_nodes(
    slurm: Slurm, run_of: Callable[..., list[str]], undisturbed: list[list[dict[str, Any]]]
) -> None:
    run = [*run_of("killed"), "trainer.checkpoint_every=20"]
    number = slurm.submit("multi_node.sbatch", *run, RESTARTS="1")
    slurm.until_trained("killed", number, steps=30)
    os.kill(learner_of_rank(1, "name=killed"), signal.SIGKILL)
    job = slurm.wait(number)
    printed = slurm.printed(number)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "0"), printed
    assert "learner 1 was killed by signal 9 (SIGKILL); restart 1 of 1" in printed
    assert_is_undisturbed(slurm, "killed", undisturbed)


@pytest.mark.long
def test_a_sweep_is_an_array_of_jobs(slurm: Slurm, run_of: Callable[..., list[str]]) -> None:
    *runs, _ = run_of("its trials have names of their own")
    line = [str(REPOSITORY / "scripts" / "sweep.py"), "name=lr", "where=slurm", "sbatch=--time=5", "train", *runs]
    printed = slurm.call(sys.executable, *line, "backend=single", "trainer.max_steps=3", "optimizer.lr=0.001,0.002")
    number = printed.split()[-1]
    for task in ("0", "1"):
        slurm.wait(f"{number}_{task}")
    outputs = [(slurm.folder / f"slurm-{number}-{task}.out").read_text() for task in (0, 1)]
    rows = json.loads((slurm.folder / "exp" / "lr" / "sweep.json").read_text())["rows"]
    assert sorted((row["trial"], row["optimizer.lr"], row["state"], row["steps"]) for row in rows) == [
        (0, "0.001", "finished", 3), (1, "0.002", "finished", 3),
    ], outputs  # fmt: skip
    assert (slurm.folder / "exp" / "lr" / "comparison.html").stat().st_size > 10_000


def learner_of_rank(rank: int, argument: str) -> int:
    """Process of a learner, found by its environment and one of its arguments."""
    for process in Path("/proc").iterdir():
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            variables = (process / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        script = str(REPOSITORY / "scripts" / "train.py").encode()
        if {script, argument.encode()} <= set(arguments) and f"RANK={rank}".encode() in variables:
            return int(process.name)
    raise AssertionError(f"no learner {rank} of {argument} runs")
