"""Signs of life over real sockets: who is lost is known to all, and nobody is accused who is not."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from distributed.learners.centre import _STRANGERS, Centre
from distributed.learners.liveness import CLOSED, LOOPBACK, Liveness, Member, StrangerError
from distributed.learners.secret import proof
from distributed.learners.signs import LearnerLostError, Loss, Peer

PATIENCE = 0.7
SECRET = b"known to the learners alone"
Group = Callable[..., list[Liveness]]


@pytest.fixture
def group() -> Iterator[Group]:
    """Learners that watch each other, learner 0 first."""
    made: list[Liveness] = []

    def make(size: int, patience: float = PATIENCE, awaited: int = 0) -> list[Liveness]:
        centre = centre_of(awaited or size, patience=patience)
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


def centre_of(
    size: int, patience: float = PATIENCE, join: float = 60.0, on_loss: Callable[[Loss], None] = lambda loss: None
) -> Centre:
    return Centre(
        size=size,
        interface=LOOPBACK,
        secret=SECRET,
        join_seconds=join,
        patience_seconds=patience,
        on_loss=on_loss,
    )


def member(centre: Centre, rank: int, patience: float = PATIENCE, secret: bytes = SECRET) -> Member:
    return Member(
        rank=rank,
        address=(LOOPBACK, centre.port),
        secret=secret,
        patience_seconds=patience,
        on_loss=lambda loss: None,
    )


def introduced(centre: Liveness, rank: int) -> socket.socket:
    """A connection that says who it is, and then nothing."""
    assert isinstance(centre, Centre)
    connection = socket.create_connection((LOOPBACK, centre.port), timeout=5)
    peer = Peer(connection)
    theirs = peer.next_line(5).removeprefix("challenge ")
    peer.send(f"learner {rank} mine {proof(SECRET, 'member', theirs, 'mine', str(rank), str(centre.port))}")
    assert peer.next_line(5).startswith("welcome ")
    return connection


def losses(learners: list[Liveness]) -> list[Loss | None]:
    return [each.wait_for_loss() for each in learners]


def test_the_last_message_arrives_despite_unread_input() -> None:
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


def test_living_learners_accuse_nobody_and_leave_in_any_order(group: Group) -> None:
    learners = group(4)
    for each in learners:
        each._say_joined()
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
    learners = group(2, awaited=8)
    started = time.monotonic()
    with introduced(learners[0], 7):
        found = losses(learners)
    assert time.monotonic() - started >= PATIENCE
    assert all(loss is not None and loss.learner == 7 and "no sign of life for 0.7 s" in loss.what for loss in found)


def welcomed(listener: socket.socket) -> socket.socket:
    """What learner 0 does when a member connects."""
    peer, port = Peer(listener.accept()[0]), str(listener.getsockname()[1])
    peer.connection.settimeout(5)
    peer.send("challenge theirs")
    _, rank, nonce, claimed = peer.next_line(5).split(" ")
    assert claimed == proof(SECRET, "member", "theirs", nonce, rank, port)
    peer.send(f"welcome launch {proof(SECRET, 'centre', 'theirs', nonce, 'launch', port)}")
    return peer.connection


@pytest.mark.parametrize("gone", ["killed", "silent"])
def test_the_loss_of_learner_0_is_seen_by_each(gone: str) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        members = [
            Member(
                rank=rank,
                address=listener.getsockname(),
                secret=SECRET,
                patience_seconds=PATIENCE,
                on_loss=lambda loss: None,
            )
            for rank in (1, 2)
        ]
        starting = [threading.Thread(target=each.start) for each in members]
        for each in starting:
            each.start()
        accepted = [welcomed(listener) for _ in members]
        for each in starting:
            each.join()
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


def test_only_the_first_loss_counts_and_is_reported_once() -> None:
    heard: list[Loss] = []
    centre = centre_of(8, on_loss=heard.append)
    centre.start()
    for rank in (4, 5):
        introduced(centre, rank).close()
    assert centre.wait_for_loss() == heard[0]
    time.sleep(PATIENCE / 2)
    centre.close()
    assert len(heard) == 1


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


@pytest.mark.parametrize(
    ("size", "line"),
    [
        (3, "learner 2 has not come within 0.5 seconds (launch.join_seconds)"),
        (4, "learner 2 has not come within 0.5 seconds (launch.join_seconds), nor has learner 3"),
        (5, "learner 2 has not come within 0.5 seconds (launch.join_seconds), nor have learners 3, 4"),
    ],
)
def test_a_missing_learner_is_named_to_all(size: int, line: str) -> None:
    centre = centre_of(size, patience=20.0, join=0.5)
    centre.start()
    came = member(centre, 1, 20.0)
    came.start()
    started = time.monotonic()
    for each in (came, centre):
        with pytest.raises(LearnerLostError) as caught:
            each.wait_for_all()
        assert str(caught.value.loss) == line
        assert time.monotonic() - started < 2.0
    came.close()
    centre.close()


def test_a_learner_that_does_not_connect_in_time_is_named() -> None:
    centre = centre_of(2, patience=20.0, join=0.5)
    centre.start()
    came = member(centre, 1, 20.0)
    came.start()
    for each in (came, centre):
        each.wait_for_all()
    with pytest.raises(LearnerLostError, match=r"learner 1 has not connected to the others within 0.5 seconds"):
        centre.joined()
    assert came.wait_for_loss() == centre.loss
    came.close()
    centre.close()


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
