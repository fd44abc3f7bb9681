"""Learners agree to stop at one point, whoever is asked and wherever they are."""

import itertools
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from distributed.learners.signs import Loss
from distributed.learners.stopping import Gate
from tests.unit.distributed.learners.watching import Group


def walk(gate: Gate, steps: list[int], pace_seconds: float, together: Callable[[], object] = lambda: None) -> None:
    """Make steps until the gate closes, as the training thread does; each ends at its number."""
    for step in itertools.count(1):
        if not gate.begin(partial(int, step)):
            return
        together()
        time.sleep(pace_seconds)
        steps.append(step)


@pytest.mark.parametrize("asked", [0, 2])
def test_all_stop_at_the_step_of_the_furthest(group: Group, asked: int) -> None:
    learners = group(4, patience=5.0)
    made: list[list[int]] = [[] for _ in learners]
    threads = [
        threading.Thread(target=walk, args=(learner.gate, steps, 0.005 * (1 + rank)))
        for rank, (learner, steps) in enumerate(zip(learners, made, strict=True))
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    learners[asked].gate.ask("SIGTERM")
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert {steps[-1] for steps in made} == {learners[0].gate.until}
    assert all(steps == list(range(1, len(steps) + 1)) for steps in made)
    assert {learner.gate.why for learner in learners} == {"SIGTERM"}


@pytest.mark.parametrize("after", [0.0, 0.02, 0.2])
def test_learners_that_meet_in_every_step_do_not_wait_for_ever(group: Group, after: float) -> None:
    """One that had not heard of it begins a step that it can make only with all others."""
    learners = group(3, patience=5.0)
    made: list[list[int]] = [[] for _ in learners]
    meeting = threading.Barrier(3, timeout=20)
    threads = [
        threading.Thread(target=walk, args=(learner.gate, steps, 0.001, meeting.wait))
        for learner, steps in zip(learners, made, strict=True)
    ]
    for thread in threads:
        thread.start()
    time.sleep(after)
    learners[1].gate.ask("SIGUSR1")
    learners[2].gate.ask("SIGINT")
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert made[0] == made[1] == made[2]


def test_alone_a_learner_stops_after_what_it_has_begun() -> None:
    gate = Gate()
    assert gate.begin(lambda: 8)
    gate.ask("SIGTERM")
    assert not gate.begin(lambda: 16)
    assert (gate.until, gate.why) == (8, "SIGTERM")


def test_a_loss_ends_the_wait_for_an_agreement() -> None:
    def lost() -> None:
        raise RuntimeError(str(Loss(1, "has ended")))

    gate = Gate(alone=False, check=lost)
    gate.stop("SIGTERM on learner 1")
    with pytest.raises(RuntimeError, match="learner 1 has ended"):
        gate.begin(lambda: 8)


def test_no_answer_falls_between_a_beginning_and_its_end() -> None:
    """A learner that has begun something answers with where that ends, whenever it is asked."""
    gate = Gate(alone=False)
    answers: list[int | None] = []

    class Looking:
        """The gate's condition; asks for an answer whenever the training thread lets go of it."""

        def __enter__(self) -> None:
            changed.__enter__()

        def __exit__(self, *error: object) -> None:
            changed.__exit__(*error)
            if asking:
                asking.clear()
                answers.append(gate.answer())
                asking.append(True)

    asking: list[bool] = []
    changed, gate._changed = gate._changed, Looking()
    gate.stop("asked")
    gate._until = 100
    asking.append(True)
    assert gate.begin(lambda: 16)
    assert set(answers) <= {None, 16}, answers


def test_what_is_being_begun_counts_before_the_answer() -> None:
    """A learner that is claiming units while it hears of the stop answers with their end."""
    gate = Gate(alone=False)
    seen: list[int | None] = []

    def claim() -> int:
        gate.stop("asked")
        seen.append(gate.answer())
        return 24

    assert gate.begin(claim)
    assert seen == [None]
    assert gate.answer() == 24
