"""Learners that watch each other over real sockets, and peers that speak their protocol, for the tests of both."""

import socket
from collections.abc import Callable

from distributed.learners.centre import Centre
from distributed.learners.liveness import LOOPBACK, Liveness, Member
from distributed.learners.secret import proof
from distributed.learners.signs import Loss, Peer

PATIENCE = 0.7
SECRET = b"known to the learners alone"
Group = Callable[..., list[Liveness]]


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


def welcomed(listener: socket.socket) -> socket.socket:
    """What learner 0 does when a member connects."""
    peer, port = Peer(listener.accept()[0]), str(listener.getsockname()[1])
    peer.connection.settimeout(5)
    peer.send("challenge theirs")
    _, rank, nonce, claimed = peer.next_line(5).split(" ")
    assert claimed == proof(SECRET, "member", "theirs", nonce, rank, port)
    peer.send(f"welcome launch {proof(SECRET, 'centre', 'theirs', nonce, 'launch', port)}")
    return peer.connection
