"""A learner is killed or stopped in the middle of a run: the others name it within seconds, end, and lose nothing."""

import json
import os
import signal
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from asr.runs.checkpoint import list_checkpoints, list_emergencies
from tests.processes import Forked, free_port
from tests.schemes import SCHEMES, words

LONG = (
    "launch.patience_seconds=5",
    "trainer.epochs=100000",
    "trainer.evaluate_every=1000000",
    "trainer.checkpoint_every=4",
)
NAMED_WITHIN_SECONDS = 10.0
HOSTS = {  # where learner 0 is the victim, which also hosts the rendezvous' store and hears of all
    ("dpsgd", signal.SIGKILL),
    ("ssgd_noise", signal.SIGKILL),
    ("allreduce", signal.SIGSTOP),
    ("adpsgd", signal.SIGSTOP),
}


def cases(blow: signal.Signals, name: str, quick: Container[str]) -> list[Any]:
    """Every scheme of several learners; those that are not ``quick`` are for the long tests."""
    return [
        pytest.param(word, blow, id=f"{word}-{name}", marks=() if word in quick else pytest.mark.long)
        for word in words(lambda each: each.several)
    ]


# ScaleCom stands for all that compress, averages for averages with noise.
KILLED = cases(signal.SIGKILL, "killed", {"scalecom", "allreduce", *words(lambda each: each.gossip)})
STOPPED = cases(
    signal.SIGSTOP, "stopped", {"allreduce", "dpsgd", "adpsgd"}
)  # one of each family that waits in its own way


@contextmanager
def ended(learners: Sequence[Forked]) -> Iterator[None]:
    """Whatever happens, no process is left, stopped ones included."""
    try:
        yield
    finally:
        for learner in learners:
            with suppress(ProcessLookupError):
                os.killpg(learner.pid, signal.SIGKILL)
            learner.communicate()


def wait_until_under_way(folder: Path, learners: Sequence[Forked]) -> None:
    deadline = time.monotonic() + 120
    while not list((folder / "checkpoints").glob("step-*")):
        for rank, learner in enumerate(learners):
            assert learner.poll() is None, f"learner {rank} ended first: {learner.communicate()[0]}"
        assert time.monotonic() < deadline, "no checkpoint appears"
        time.sleep(0.05)


def first_line_that_names(log: Path, learner: int) -> str | None:
    lines = log.read_text().splitlines() if log.exists() else []
    return next((line for line in lines if f"learner {learner} has" in line), None)


def seconds_until_named(folder: Path, survivors: list[int], victim: int) -> float:
    """From now until the log of every survivor says who is lost."""
    started = time.monotonic()
    logs = [folder / "logs" / f"rank-{rank}.log" for rank in survivors]
    while any(first_line_that_names(log, victim) is None for log in logs):
        assert time.monotonic() - started < 60, [log.read_text()[-2000:] for log in logs]
        time.sleep(0.05)
    return time.monotonic() - started


@pytest.mark.parametrize(("scheme", "blow"), [*KILLED, *STOPPED])
def test_the_others_name_a_lost_learner_and_end(launcher: Any, scheme: str, blow: signal.Signals) -> None:
    size = SCHEMES[scheme].learners
    victim = 0 if (scheme, blow) in HOSTS else 1
    survivors = [rank for rank in range(size) if rank != victim]
    batch = (f"batch.units={size}", "batch.unit_utterances=2")
    learners = launcher.start_each(size, "name=lost", *SCHEMES[scheme].overrides(size), *batch, *LONG)
    folder = launcher.folder / "exp" / "lost"
    with ended(learners):
        wait_until_under_way(folder, learners)
        os.kill(learners[victim].pid, blow)
        assert seconds_until_named(folder, survivors, victim) < NAMED_WITHIN_SECONDS
        printed = {rank: learners[rank].communicate(timeout=60)[0] for rank in survivors}
    for rank in survivors:
        assert learners[rank].returncode == 2, printed[rank]
        last = printed[rank].strip().splitlines()[-1]
        assert last.startswith(f"error on learner {rank}: learner {victim} has "), printed[rank]
    complete, problems = list_checkpoints(folder / "checkpoints")
    assert complete
    assert not problems
    assert all(each.damaged_file() is None for each in complete)
    emergencies, problems = list_emergencies(folder / "checkpoints")
    assert not problems
    assert len(emergencies) == SCHEMES[scheme].gossip
    for emergency in emergencies:
        assert json.loads((emergency.folder / "loss.json").read_text())["mean_of"] == survivors
        assert emergency.damaged_file() is None
        usual = load_file(complete[-1].folder / "model.safetensors")
        assert {k: v.shape for k, v in emergency.model_state().items()} == {k: v.shape for k, v in usual.items()}


def test_with_one_agent_per_learner_the_lost_one_is_named_and_a_model_left(launcher: Any) -> None:
    batch = ("batch.units=2", "batch.unit_utterances=2")
    agents = launcher.start_agents(2, "name=agents", "backend=dpsgd", *batch, *LONG)
    folder = launcher.folder / "exp" / "agents"
    with ended(agents):
        wait_until_under_way(folder, agents)
        (victim,) = children(agents[1].pid)
        os.kill(victim, signal.SIGKILL)
        assert seconds_until_named(folder, [0], 1) < NAMED_WITHIN_SECONDS
        printed = [agent.communicate(timeout=90)[0] for agent in agents]
    assert all(agent.returncode for agent in agents)
    assert "learner 1 has ended or was killed" in printed[0]
    evaluated = launcher.script("evaluate", "run=exp/agents", "checkpoint=emergency", "sets=[dev]")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "emergency-" in evaluated.stdout


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("kind", ["neighbours", "arriving", "connecting", "gather", "allreduce", "broadcast", "adpsgd"])
def test_a_learner_killed_in_the_middle_of_a_message_keeps_nobody_waiting(kind: str, tmp_path: Path) -> None:
    """gloo does not fail the operation whose message had begun to come in; most kills fall into a message, not all."""
    line = [str(Path(__file__).with_name("large_messages.py")), kind]
    run = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    learners = [Forked(line, tmp_path, RANK=str(rank), LOCAL_RANK=str(rank), **run) for rank in range(2)]
    with ended(learners):
        deadline = time.monotonic() + 60
        while not all((tmp_path / f"under-way-{rank}").exists() for rank in range(2)):
            assert time.monotonic() < deadline, "no message arrives"
            time.sleep(0.02)
        learners[1].kill()
        assert learners[0].wait(NAMED_WITHIN_SECONDS) == 2
        assert learners[0].communicate()[0].splitlines()[-1].startswith("learner 1 has ended or was killed")
