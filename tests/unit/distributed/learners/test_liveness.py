"""Signs of life over real sockets: who is lost is known to all, and nobody is accused who is not."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from distributed.learners.liveness import CLOSED, LOOPBACK, Centre, Liveness, Member
from distributed.learners.signs import LearnerLostError, Loss, Peer

PATIENCE = 0.7
Group = Callable[..., list[Liveness]]


@pytest.fixture
def group() -> Iterator[Group]:
    """Learners that watch each other, learner 0 first."""
    made: list[Liveness] = []

    def make(size: int, patience: float = PATIENCE) -> list[Liveness]:
        centre = Centre(interface=LOOPBACK, patience_seconds=patience, on_loss=lambda loss: None)
        made.append(centre)
        for rank in range(1, size):
            made.append(member(centre, rank, patience))
        for each in made:
            each.start()
        return list(made)

    yield make
    for each in reversed(made):
        with suppress(RuntimeError):
            each.close()


def member(centre: Centre, rank: int, patience: float = PATIENCE, token: str | None = None) -> Member:
    return Member(
        rank=rank,
        address=(LOOPBACK, centre.port),
        token=centre.token if token is None else token,
        patience_seconds=patience,
        on_loss=lambda loss: None,
    )


def stranger(centre: Liveness, first_line: str) -> socket.socket:
    """A connection that says one line and no more."""
    assert isinstance(centre, Centre)
    connection = socket.create_connection((LOOPBACK, centre.port))
    connection.sendall(f"{first_line}\n".encode())
    return connection


def losses(learners: list[Liveness]) -> list[Loss | None]:
    return [each.wait_for_loss() for each in learners]


def test_what_is_said_last_arrives_although_something_unread_comes_in() -> None:
    """Closing over unread lines resets the connection, which throws away what waits behind a line that is on its way."""
    with socket.create_server((LOOPBACK, 0)) as server:
        for _ in range(200):
            leaving = Peer(socket.create_connection(server.getsockname()))
            staying = Peer(server.accept()[0])
            staying.send("alive")
            leaving.send("alive")
            leaving.finish()
            said = []
            while (lines := staying.read()) is not None:
                said += lines
            staying.close(0.0)
            leaving.close(1.0)
            assert said == ["alive", "done"]


def test_those_who_live_accuse_nobody_and_leave_in_any_order(group: Group) -> None:
    learners = group(4)
    time.sleep(2 * PATIENCE)
    for rank in (2, 0, 3, 1):
        learners[rank].close()
        assert [each.loss for each in learners] == [None] * 4


def test_a_closed_connection_is_a_loss_at_once(group: Group) -> None:
    learners = group(3, patience=20.0)
    victim = learners[2]
    assert isinstance(victim, Member)
    started = time.monotonic()
    victim.centre.connection.shutdown(socket.SHUT_RDWR)  # as the kernel does for one that is killed
    assert losses(learners[:2]) == [Loss(2, CLOSED)] * 2
    assert time.monotonic() - started < 5


def test_silence_is_a_loss_after_the_patience(group: Group) -> None:
    learners = group(2)
    started = time.monotonic()
    assert isinstance(learners[0], Centre)
    with stranger(learners[0], f"learner 7 {learners[0].token}"):
        found = losses(learners)
    assert time.monotonic() - started >= PATIENCE
    assert all(loss is not None and loss.learner == 7 and "no sign of life for 0.7 s" in loss.what for loss in found)


@pytest.mark.parametrize("gone", ["killed", "silent"])
def test_the_loss_of_learner_0_is_seen_by_each(gone: str) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        members = [
            Member(
                rank=rank,
                address=listener.getsockname(),
                token="",
                patience_seconds=PATIENCE,
                on_loss=lambda loss: None,
            )
            for rank in (1, 2)
        ]
        for each in members:
            each.start()
        accepted = [listener.accept()[0] for _ in members]
        for connection in accepted if gone == "killed" else ():
            connection.close()
        found = losses(list(members))
        for each in members:
            each.close()
        for connection in accepted:
            connection.close()
    assert all(loss is not None and loss.learner == 0 for loss in found)
    assert all((loss is not None and loss.what == CLOSED) == (gone == "killed") for loss in found)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_learner_that_fails_says_why_in_a_line_at_once(group: Group, rank: int) -> None:
    learners = group(3)
    learners[rank].failed("no space\nleft on device")  # and goes on for a while, to close what is open
    others = [each for each in learners if each.rank != rank]
    assert losses(others) == [Loss(rank, "failed: no space left on device")] * 2


def test_only_the_first_loss_counts_and_is_told_once() -> None:
    heard: list[Loss] = []
    centre = Centre(interface=LOOPBACK, patience_seconds=PATIENCE, on_loss=heard.append)
    centre.start()
    for rank in (4, 5):
        stranger(centre, f"learner {rank} {centre.token}").close()
    assert centre.wait_for_loss() == heard[0]
    time.sleep(PATIENCE / 2)
    centre.close()
    assert len(heard) == 1


@pytest.mark.parametrize("line", ["learner 7 wrong", "learner x", "lost 1 by a liar", "\xff" * 5000])
def test_who_does_not_know_the_token_is_nobody(group: Group, line: str) -> None:
    learners = group(2)
    with stranger(learners[0], line) as connection:
        connection.settimeout(5)
        with suppress(ConnectionResetError):
            assert connection.recv(100) == b""  # told nothing, and put out
    assert losses(learners) == [None, None]


def test_who_says_nothing_is_told_nothing_and_put_out(group: Group) -> None:
    learners = group(2)
    assert isinstance(learners[0], Centre)
    with socket.create_connection((LOOPBACK, learners[0].port)) as connection:
        connection.settimeout(10 * PATIENCE)
        assert connection.recv(100) == b""
    assert losses(learners) == [None, None]


def test_time_that_a_process_itself_has_missed_is_nobody_else_s_silence(group: Group) -> None:
    centre = group(2)[0]
    assert isinstance(centre, Centre)
    time.sleep(PATIENCE / 3)
    for peer in centre._peers:
        peer.heard -= 100.0
    centre._beat(missed_seconds=100.0)
    assert centre.loss is None
    for peer in centre._peers:
        peer.heard -= 100.0
    centre._beat(missed_seconds=0.0)
    assert centre.loss is not None


def test_the_error_names_the_learner_and_the_remedy() -> None:
    error = LearnerLostError(Loss(3, CLOSED))
    assert str(error) == (
        "learner 3 has ended or was killed: its connection is closed; "
        "start the run again to go on from its newest checkpoint"
    )
