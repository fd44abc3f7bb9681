"""The rendezvous' store: where it listens, and how long a learner waits for it."""

import time
from datetime import timedelta

import pytest

from distributed.errors import LearnerError
from distributed.learners.environment import Meeting, Place
from distributed.learners.liveness import LOOPBACK
from distributed.learners.signs import LearnerLostError
from distributed.learners.store import listening_store, meet
from tests.processes import free_port, listening


def here(rank: int, local_size: int = 2) -> Place:
    return Place(rank, 2, rank % local_size, local_size, launched=True)


@pytest.mark.parametrize("local_size", [1, 2])
def test_learner_0_opens_it_on_the_loopback_where_all_are_on_one_host(local_size: int) -> None:
    where = Meeting(LOOPBACK if local_size == 1 else "a-name-that-nobody-resolves", free_port(), hosted=False)
    first, second = (meet(here(rank, local_size), where, 5.0) for rank in (0, 1))
    first.set("key", "value")
    assert second.get("key") == b"value"
    assert [address for address, port in listening() if port == where.port] == [LOOPBACK]


def test_its_port_is_taken() -> None:
    where = Meeting(LOOPBACK, free_port(), hosted=False)
    store = meet(here(0), where, 5.0)
    with pytest.raises(LearnerError, match=f"cannot listen on port {where.port} .*choose another MASTER_PORT"):
        meet(here(0), where, 5.0)
    del store


def test_waiting_ends_at_the_deadline_and_names_learner_0() -> None:
    started = time.monotonic()
    with pytest.raises(LearnerLostError, match=r"learner 0 has not come within 0.5 seconds .*nobody answers at 127"):
        meet(here(1), Meeting(LOOPBACK, free_port(), hosted=False), 0.5)
    assert time.monotonic() - started < 2.0


def test_a_store_that_a_launcher_hosts_is_used_by_learner_0_too() -> None:
    hosted = listening_store(LOOPBACK, 0, 2, timedelta(seconds=5))
    where = Meeting(LOOPBACK, hosted.port, hosted=True)
    meet(here(0), where, 5.0).set("key", "value")
    assert hosted.get("key") == b"value"
