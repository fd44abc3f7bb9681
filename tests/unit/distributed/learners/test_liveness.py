"""Signs of life over real sockets: who is lost is known to all, and nobody is accused who is not."""

import socket
import threading
import time

import pytest

from distributed.learners.centre import Centre
from distributed.learners.liveness import CLOSED, LOOPBACK, Member
from distributed.learners.signs import LearnerLostError, Loss, Peer
from tests.unit.distributed.learners.watching import (
    PATIENCE,
    SECRET,
    Group,
    centre_of,
    introduced,
    losses,
    member,
    welcomed,
)


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
    centre._beat(time.monotonic(), missed_seconds=100.0)
    assert centre.loss is None
    for peer in centre._peers:
        peer.heard -= 100.0
    centre._beat(time.monotonic(), missed_seconds=0.0)
    assert centre.loss is not None


@pytest.mark.parametrize("paused_at", ["_tell", "_agree"])
def test_a_pause_of_learner_0_itself_is_nobody_s_silence_wherever_it_falls(
    group: Group, monkeypatch: pytest.MonkeyPatch, paused_at: str
) -> None:
    (centre,) = group(1, awaited=2)
    assert isinstance(centre, Centre)
    paused, over, beats_after = threading.Event(), threading.Event(), threading.Semaphore(0)
    whole, beat = getattr(centre, paused_at), centre._beat

    def slowly(*line: str) -> None:
        if not paused.is_set():
            paused.set()
            time.sleep(2 * PATIENCE)  # the pause
        whole(*line)

    def counted(now: float, missed_seconds: float) -> None:
        beat(now, missed_seconds)
        if paused.is_set():
            beats_after.release()

    with introduced(centre, 1) as connection:

        def live() -> None:
            while not over.wait(PATIENCE / 7):
                connection.sendall(b"alive\n")

        living = threading.Thread(target=live)
        living.start()
        try:
            monkeypatch.setattr(centre, "_beat", counted)
            monkeypatch.setattr(centre, paused_at, slowly)
            assert all(beats_after.acquire(timeout=10) for _ in range(3))
        finally:
            over.set()
            living.join()
        assert centre.loss is None
        connection.sendall(b"done\n")


def test_learner_0_hears_that_it_was_given_up_while_it_was_suspended(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would find connections that were closed, and nobody who is lost."""
    centre, other = group(2)
    assert isinstance(centre, Centre)
    serve, awake = centre._serve, threading.Event()
    monkeypatch.setattr(centre, "_serve", lambda selector, seconds: awake.wait() and serve(selector, seconds))
    loss = other.wait_for_loss()
    assert loss is not None
    assert loss.learner == 0
    other.close()
    awake.set()
    assert centre.wait_for_loss() == loss


def test_the_error_names_the_learner_and_the_remedy() -> None:
    error = LearnerLostError(Loss(3, CLOSED))
    assert str(error) == (
        "learner 3 has ended or was killed: its connection is closed; "
        "start the run again to go on from its newest checkpoint"
    )
