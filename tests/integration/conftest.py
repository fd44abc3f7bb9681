"""Whole runs as a user starts them: a corpus of a few seconds, and learners as real processes."""

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from torch import Tensor
from torch.distributed import run

from asr.training.trainer import Trainer
from scripts.composition.startup import REPOSITORY
from tests.processes import Forked, Learners, end_all, free_port

TORCHRUN = str(run.__file__)  # what ``torchrun`` runs


@dataclass(frozen=True)
class Launcher:
    """Starts entry points in a working directory, as a user would; all are forked, but for the learners of an agent of torchrun."""

    folder: Path
    small: Callable[..., list[str]]
    entry: str = "train"  # or train_lm

    def script_line(self, overrides: Sequence[str]) -> list[str]:
        """The command line of a learner of a run on the tiny corpus."""
        script = str(REPOSITORY / "scripts" / f"{self.entry}.py")
        return [script, *self.small("trainer.evaluate_every=4", "trainer.checkpoint_every=2", *overrides)]

    def start(self, learners: int, *overrides: str) -> Learners:
        """Start the learners of a training run on one host."""
        return Learners(partial(Forked, self.script_line(overrides), self.folder), learners)

    def start_torchrun(self, learners: int, *overrides: str, restarts: int = 0) -> Forked:
        """Start a training run with torchrun, which starts its learners itself."""
        torchrun = [TORCHRUN, "--standalone", "--nproc-per-node", str(learners), "--max-restarts", str(restarts)]
        return Forked([*torchrun, *self.script_line(overrides)], self.folder)

    def start_launcher(self, learners: int, *overrides: str, restarts: int = 0) -> Forked:
        """Start a training run with scripts/launch.py, which starts its learners itself."""
        line = self.script_line(overrides)
        own = [str(REPOSITORY / "scripts" / "launch.py"), "--learners", str(learners), "--restarts", str(restarts)]
        return Forked([*own, self.entry, *line[1:]], self.folder)

    def start_hosted(self, learners: int, port: int, *overrides: str, **variables: str) -> list[Forked]:
        """Start the learners of a run on one host, with a rendezvous' store that the launcher hosts, as torchrun does."""
        run = {"WORLD_SIZE": str(learners), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        host = {"LOCAL_WORLD_SIZE": str(learners), "TORCHELASTIC_USE_AGENT_STORE": "True"} | variables
        line = self.script_line(overrides)
        return [
            Forked(line, self.folder, RANK=str(rank), LOCAL_RANK=str(rank), **run, **host) for rank in range(learners)
        ]

    def start_each(self, learners: int, *overrides: str) -> list[Forked]:
        """Start the learners of a run as if on hosts of their own: the end of one is no reason to end others."""
        run = {"WORLD_SIZE": str(learners), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        host = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GLOO_SOCKET_IFNAME": "lo"}
        line = self.script_line(overrides)
        return [Forked(line, self.folder, RANK=str(rank), **run, **host) for rank in range(learners)]

    def start_agents(self, learners: int, *overrides: str) -> list[Forked]:
        """Start a run with an agent of torchrun for each learner."""
        agent = [TORCHRUN, "--nnodes", str(learners), "--nproc-per-node", "1"]
        where = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]  # with the agent of learner 0
        line = self.script_line(overrides)
        return [
            Forked([*agent, *where, "--node-rank", str(rank), *line], self.folder, GLOO_SOCKET_IFNAME="lo")
            for rank in range(learners)
        ]

    def train(self, learners: int, *overrides: str, expect: int = 0) -> str:
        """Run to the end; returns what was printed."""
        return self.end(self.start(learners, *overrides), expect)

    def train_torchrun(self, learners: int, *overrides: str, expect: int = 0) -> str:
        """Run to the end under torchrun; returns what was printed."""
        return self.end(self.start_torchrun(learners, *overrides), expect)

    @staticmethod
    def end(run: Learners | Forked, expect: int) -> str:
        """Wait for a run to end with the exit code ``expect``; returns what was printed."""
        output, _ = run.communicate(timeout=240)
        assert run.returncode == expect, output
        return output

    def script(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another entry point."""
        line = [str(REPOSITORY / "scripts" / f"{name}.py"), *arguments]
        script = Forked(line, self.folder, separate=True)
        output, errors = script.communicate(timeout=240)
        return subprocess.CompletedProcess(line, script.wait(), output, errors)

    def start_script(self, processes: int, name: str, *arguments: str) -> list[Forked]:
        """Start processes of another entry point that share its work, as a cluster's scheduler would: without torchrun."""
        line = [str(REPOSITORY / "scripts" / f"{name}.py"), *arguments]
        host = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        return [
            Forked(line, self.folder, RANK=str(rank), WORLD_SIZE=str(processes), **host) for rank in range(processes)
        ]

    def rows(self, name: str, learner: int) -> list[dict[str, object]]:
        """The metric rows of a learner, without what depends on the clock."""
        path = self.folder / "exp" / name / "metrics" / f"{learner}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        clock = ("time/", "throughput/", "wall_seconds", "comm/")
        return [{key: value for key, value in row.items() if not key.startswith(clock)} for row in rows]


@pytest.fixture
def launcher(tmp_path: Path, small_overrides: Callable[..., list[str]]) -> Launcher:
    """A launcher in a fresh working directory."""
    return Launcher(tmp_path, small_overrides)


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, small_overrides: Callable[..., list[str]]
) -> Callable[..., Launcher]:
    """``undisturbed(learners, *overrides)``: where a run of that name has come to its end, once for all tests of a module."""
    made: dict[tuple[object, ...], Launcher] = {}

    def run(learners: int, *overrides: str) -> Launcher:
        if (learners, *overrides) not in made:
            launcher = Launcher(tmp_path_factory.mktemp("undisturbed"), small_overrides)
            launcher.train(learners, "name=undisturbed", *overrides)
            made[learners, *overrides] = launcher
        return made[learners, *overrides]

    return run


@pytest.fixture
def lm_launcher(tmp_path: Path, small_lm_overrides: Callable[..., list[str]]) -> Launcher:
    """A launcher of language models in a fresh working directory."""
    return Launcher(tmp_path, small_lm_overrides, "train_lm")


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Whatever a test has started and not seen the end of is ended with it."""
    yield
    end_all()


@pytest.fixture
def one_start() -> Callable[[Trainer], None]:
    """``one_start(trainer)``: the weights that the first trainer of the test drew, as learners in threads share torch's generator."""
    drawn: dict[str, Tensor] = {}

    def begin(trainer: Trainer) -> None:
        model = trainer.parts.run.model
        if not drawn:
            drawn.update({name: each.clone() for name, each in model.state_dict().items()})
        model.load_state_dict(drawn)

    return begin
