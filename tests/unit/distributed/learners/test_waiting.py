"""Waits that end when a learner is lost."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, cast

import pytest
from torch.distributed import Work

from distributed.learners import waiting
from distributed.learners.waiting import Waiter, wait_for_collective


class LostError(Exception):
    """What ``check`` raises."""


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.02)


class Operation:
    """An operation of gloo's whose first ``looks`` waits with a timeout pass without its end; ``error``: how it ends."""

    def __init__(self, looks: float, error: Exception | None = None, *, ends_after_look: bool = False) -> None:
        self.looks, self.error, self.ends_after_look = looks, error, ends_after_look
        self.asked = 0

    def wait(self, timeout: timedelta | None = None) -> bool:
        self.asked += 1
        if timeout is not None and self.asked <= self.looks:
            raise RuntimeError("Operation timed out!")
        if self.error is not None:
            raise self.error
        return True

    def is_completed(self) -> bool:
        return self.asked > self.looks or (self.ends_after_look and self.asked == self.looks)


def as_work(operation: Operation) -> Work:
    return cast(Work, operation)


def checks(*found: bool) -> Callable[[], None]:
    """A check that raises where ``found`` is True, look by look."""
    looks: Iterator[bool] = iter(found)

    def check() -> None:
        if next(looks):
            raise LostError

    return check


@pytest.mark.parametrize("ends_after_look", [False, True])
def test_a_collective_is_waited_for_as_long_as_nobody_is_lost(ends_after_look: bool) -> None:
    operation = Operation(3, ends_after_look=ends_after_look)
    wait_for_collective(as_work(operation), checks(False, False, False))
    assert operation.asked == 4


@pytest.mark.parametrize("ends_after_look", [False, True])
def test_what_a_collective_ended_with_is_raised_not_the_timeout(ends_after_look: bool) -> None:
    closed = Operation(2, RuntimeError("a closed connection"), ends_after_look=ends_after_look)
    with pytest.raises(RuntimeError, match=r"^a closed connection$"):
        wait_for_collective(as_work(closed), checks(False, False))


def test_a_collective_that_a_loss_ends_is_not_left_behind() -> None:
    operation = Operation(1)
    wait_for_collective(as_work(operation), checks(True))
    assert operation.asked == 2, "it had the time to end by itself"


def test_a_collective_that_is_stuck_is_left_behind() -> None:
    with pytest.raises(LostError):
        wait_for_collective(as_work(Operation(float("inf"))), checks(False, True))


def nothing() -> None:
    """Nobody is lost."""


def test_a_wait_elsewhere_returns_or_raises_as_here() -> None:
    waiter, done = Waiter(), list[int]()
    waiter.wait(lambda: done.append(threading.get_ident()), nothing)
    assert done[0] != threading.get_ident()

    def fails() -> None:
        raise KeyError("peer") from ValueError("cause")

    with pytest.raises(KeyError) as raised:
        waiter.wait(fails, nothing)
    assert isinstance(raised.value.__cause__, ValueError)
    waiter.wait(lambda: done.append(0), nothing)
    assert len(done) == 2, "an error ends a wait, not the thread"


def test_a_wait_elsewhere_that_is_stuck_is_left_behind_and_so_is_what_comes_after_it() -> None:
    waiter, release, done = Waiter(), threading.Event(), list[Any]()
    started = time.monotonic()
    with pytest.raises(LostError):
        waiter.wait(lambda: done.append(release.wait(60)), checks(False, True))
    with pytest.raises(LostError):
        waiter.wait(lambda: done.append("second"), checks(True))
    assert time.monotonic() - started < 30
    assert done == []
    release.set()
    waiter.wait(nothing, nothing)
    assert done == [True, "second"]
