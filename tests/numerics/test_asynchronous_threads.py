"""The threads of asynchronous gossip: how often they begin a round, how they end, and who hears of it."""

import threading
import time

import pytest
from torch import nn
from torch.distributed import PrefixStore

from distributed.gossip import background_rounds
from distributed.gossip.pairwise import Buffers, ExchangeError, Pairwise
from distributed.learners.gloo import gloo_group
from distributed.learners.world import World
from distributed.schemes.adpsgd import AsynchronousGossip
from tests.schemes import SCHEMES


def synchronised(world: World, rounds_per_step: float = 1.0) -> AsynchronousGossip:
    """A backend of ten weights, whose threads run."""
    backend = SCHEMES["adpsgd"].build(world, rounds_per_step=rounds_per_step)
    backend.wrap(nn.Linear(10, 1, bias=False))
    backend.synchronise(resumed=True)
    return backend


def step_alone(backend: AsynchronousGossip) -> None:
    """A skipped step."""
    backend.begin_step(1.0, 1.0)
    with backend.updating(apply=False):
        pass


def step_for(seconds: float, backend: AsynchronousGossip) -> None:
    """Skipped steps, until one of them raises."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        step_alone(backend)
        time.sleep(0.01)


@pytest.mark.parametrize(("rounds_per_step", "steps"), [(1.5, 20), (0.75, 40), (0.375, 40)])
def test_parts_of_rounds_are_saved_up_and_not_lost(run_learners, rounds_per_step: float, steps: int):
    def learn(world: World) -> float:
        backend = synchronised(world, rounds_per_step)
        for step in range(steps):
            step_alone(backend)
            deadline = time.monotonic() + 10
            while backend.round < int(rounds_per_step * (step + 1)) and time.monotonic() < deadline:
                time.sleep(0.001)
        backend.drain()
        backend.close()
        return backend.round

    assert run_learners(2, learn) == [rounds_per_step * steps] * 2


def test_threads_end_when_all_work_is_done(run_learners):
    def learn(world: World) -> tuple[float, bool]:
        backend = synchronised(world)
        step_alone(backend)
        backend.drain()
        threads = [thread._thread for thread in backend.rounds.threads]
        started = time.perf_counter()
        backend.close()
        return time.perf_counter() - started, any(thread.is_alive() for thread in threads)

    for seconds, alive in run_learners(3, learn):
        assert seconds < 3
        assert not alive


def test_a_learner_that_fails_on_the_way_does_not_silence_the_next_one(run_learners):
    """Learner 1 still answers: it would otherwise let others wait, and nobody would hear why."""

    def learn(world: World) -> bool:
        backend = synchronised(world)
        step_alone(backend)
        if world.rank == 0:
            backend.close()  # as after an error
        world.barrier()
        time.sleep(0.5)
        answers = backend.rounds.threads[1]._thread.is_alive() if backend.rounds.threads else True
        world.barrier()
        return answers

    assert all(run_learners(3, learn))


def test_a_learner_with_more_to_do_says_who_has_ended(run_learners, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(background_rounds, "_END_SECONDS", 0.1)  # learner 2 never ends learner 0's thread

    def learn(world: World) -> str:
        backend = synchronised(world)
        step_alone(backend)
        backend.drain()
        message = ""
        if world.rank == 1:
            with pytest.raises(ExchangeError) as raised:
                step_for(12, backend)
            message = str(raised.value)
        elif world.rank == 0:
            backend.close()
        world.barrier()
        return message

    assert "learner 0 has ended" in run_learners(3, learn)[1]


def test_a_peer_that_does_not_answer_is_named_within_the_timeout(run_learners, monkeypatch: pytest.MonkeyPatch):
    """A request may be waited for as long as it takes, an answer may not."""
    answering, over = Pairwise.answer, threading.Event()

    def answer(self: Pairwise, buffers: Buffers) -> bool:
        return answering(self, buffers) if self.group.rank() == 0 else not over.wait()

    monkeypatch.setattr(Pairwise, "answer", answer)

    def learn(world: World) -> str:
        store = PrefixStore("impatient", world.joined.get_group_store())
        group = gloo_group(store, world.rank, 2, timeout_seconds=3.0)
        backend = synchronised(World(world.rank, 2, world.rank, 2, world.device, group))
        message = ""
        if world.rank == 0:
            with pytest.raises(ExchangeError) as raised:
                step_for(12, backend)
            message = str(raised.value)
        world.barrier()
        over.set()
        return message

    assert "learner 1 does not answer" in run_learners(2, learn)[0]


def test_nobody_goes_on_while_another_still_holds_the_mean(run_learners):
    """Its next exchange would mix with the mean model in place of that learner's weights."""

    def learn(world: World) -> tuple[float, float]:
        backend = synchronised(world)
        with backend.consensus():
            time.sleep(0.5 * world.rank)
            inside = time.monotonic()
        after = time.monotonic()
        backend.close()
        return inside, after

    (_, first_after), (second_inside, _) = run_learners(2, learn)
    assert first_after >= second_inside
