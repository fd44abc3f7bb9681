"""Who does not know the secret neither joins, ends nor misleads a run, whatever is sent to the port of learner 0."""

import socket
import threading
from contextlib import suppress

import pytest

from distributed.learners.centre import _STRANGERS, Centre
from distributed.learners.liveness import LOOPBACK, Member, StrangerError
from distributed.learners.secret import proof
from distributed.learners.signs import Peer
from tests.unit.distributed.learners.watching import (
    PATIENCE,
    SECRET,
    Group,
    introduced,
    losses,
    member,
    welcomed,
)

LINES = ["learner 1 mine wrong", "learner x", "learner", "lost 1 by a liar", "joined", "\xff" * 5000]


@pytest.mark.parametrize("line", LINES)
def test_a_peer_without_the_secret_is_ignored(group: Group, line: str) -> None:
    learners = group(2, awaited=3)
    assert isinstance(learners[0], Centre)
    with socket.create_connection((LOOPBACK, learners[0].port)) as connection:
        connection.sendall(f"{line}\n".encode())
        assert_told_nothing(connection)
    assert losses(learners) == [None, None]


def test_a_silent_peer_learns_nothing_and_is_disconnected(group: Group) -> None:
    learners = group(2, awaited=3)
    assert isinstance(learners[0], Centre)
    with socket.create_connection((LOOPBACK, learners[0].port)) as connection:
        assert_told_nothing(connection)
    assert losses(learners) == [None, None]


def assert_told_nothing(connection: socket.socket) -> None:
    """But for a challenge, which holds no secret; and then put out."""
    connection.settimeout(10 * PATIENCE)
    heard = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(1000):
            heard += data
    assert heard == b"" or (heard.startswith(b"challenge ") and heard.count(b"\n") == 1)
    assert SECRET not in heard


def test_a_proof_is_worth_nothing_to_who_has_heard_it(group: Group) -> None:
    learners = group(1, awaited=2)
    assert isinstance(learners[0], Centre)
    said = f"learner 1 mine {proof(SECRET, 'member', 'of another time', 'mine', '1', str(learners[0].port))}"
    with socket.create_connection((LOOPBACK, learners[0].port)) as connection:
        connection.sendall(f"{said}\n".encode())
        assert_told_nothing(connection)


def test_a_proof_is_worth_nothing_at_another_door(group: Group) -> None:
    learners = group(1, awaited=2)
    assert isinstance(learners[0], Centre)
    with socket.create_connection((LOOPBACK, learners[0].port)) as connection:
        peer = Peer(connection)
        theirs = peer.next_line(5).removeprefix("challenge ")
        peer.send(f"learner 1 mine {proof(SECRET, 'member', theirs, 'mine', '1', str(learners[0].port + 1))}")
        assert_told_nothing(connection)


def test_a_member_is_not_taken_in_by_who_does_not_know_the_secret() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        own = Member(
            rank=1,
            address=listener.getsockname(),
            secret=b"another",
            patience_seconds=PATIENCE,
            on_loss=lambda loss: None,
        )

        def relay() -> None:
            with suppress(AssertionError):
                welcomed(listener)

        def lie() -> None:
            peer = Peer(listener.accept()[0])
            peer.send("challenge theirs")
            peer.send("welcome launch " + proof(SECRET, "centre", "theirs", "guessed", "launch"))
            peer.close(2)

        for play in (relay, lie):
            thread = threading.Thread(target=play)
            thread.start()
            with pytest.raises((StrangerError, OSError)):
                own.start()
            thread.join()


def test_idle_connections_keep_no_learner_out_and_none_is_admitted_later(group: Group) -> None:
    learners = group(1, patience=20.0, awaited=2)
    centre = learners[0]
    assert isinstance(centre, Centre)
    crowd = [socket.create_connection((LOOPBACK, centre.port)) for _ in range(_STRANGERS + 744)]
    late = member(centre, 1, 20.0)
    late.start()
    late._say_joined()
    centre.joined()
    assert len(centre._peers) == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, centre.port))
    late.close()
    assert centre.loss is None
    for each in crowd:
        each.close()


def test_the_second_who_says_to_be_a_learner_is_put_out(group: Group) -> None:
    learners = group(2, awaited=3)
    with pytest.raises(OSError, match="closed"):
        introduced(learners[0], 1)
    assert losses(learners) == [None, None]
