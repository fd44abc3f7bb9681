"""What learners tell each other in signs of life, and the connections that carry it.

Lines of text over TCP: at first who it is (see secret.py), then ``together`` once all have come, ``joined`` from a learner
that is connected to all, ``connected`` once all are, and at any time ``alive``, ``done``, ``lost <rank> <what happened>``,
``returns <rank> <why>``, and those by which all agree to stop (stopping.py).
"""

import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from distributed.errors import LearnerError, UserError

UNREACHABLE = "can they reach each other, on the interface that GLOO_SOCKET_IFNAME names?"
LONGEST_LINE = 1000  # bytes; an error may be quoted


@dataclass(frozen=True, slots=True)
class Loss:
    """A learner that the others must not wait for any more."""

    learner: int
    what: str
    returns: bool = False  # whether it goes on from the newest checkpoint by itself, and the others with it

    def __str__(self) -> str:
        return f"learner {self.learner} {self.what}"

    @property
    def line(self) -> str:
        """The line that announces the loss to another learner."""
        return f"{'returns' if self.returns else 'lost'} {self.learner} {self.what}"


def late(ranks: Iterable[int], what: str, seconds: float, why: str = "") -> Loss:
    """One loss that names all learners that had not done ``what`` when the learners should have met."""
    first, *others = sorted(ranks)
    also = f", nor ha{'ve learners' if others[1:] else 's learner'} {', '.join(map(str, others))}" if others else ""
    return Loss(first, f"has not {what} within {seconds:g} seconds (launch.join_seconds){also}{why}")


class LearnerLostError(UserError, RuntimeError):
    """The run cannot go on: another learner is lost."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(f"{loss}; start the run again to go on from its newest checkpoint")
        self.loss = loss
        self.returns = loss.returns


class JoinError(LearnerError):
    """The learners have not met: one is missing, or was lost before all were connected. Nothing was trained."""

    exit_code = 1

    def __init__(self, loss: Loss) -> None:
        super().__init__(f"the learners have not met: {loss}; see why in its log, then start the run again")
        self.loss = loss


class Peer:
    """A connection, its unfinished line, and when it was last heard."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # every line counts on its own
        self.heard = time.monotonic()
        self.rank: int | None = None
        self.done = False
        self.nonce = ""  # with which the other side shall prove that it knows the secret
        self._unfinished = b""
        self._waiting: list[str] = []  # complete lines that arrived together with the one read by next_line

    def send(self, line: str) -> None:
        """Send a line. A line that cannot be sent is dropped: the peer's silence is then noticed."""
        with suppress(OSError):
            self.connection.sendall(encoded(line))

    def finish(self) -> None:
        """Say that this side is done, and send nothing more."""
        self.send("done")
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)

    def close(self, seconds: float) -> None:
        """Close the connection when the other side has finished too, at the latest after so long.

        Whoever closes while something unread is coming in resets the connection, and what was just sent may be lost.
        """
        deadline = time.monotonic() + seconds
        with suppress(OSError):
            while (left := deadline - time.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.connection.recv(4096):
                    break
        self.connection.close()

    def next_line(self, seconds: float) -> str:
        """The next line; OSError if none arrives within ``seconds``."""
        deadline = time.monotonic() + seconds
        while not self._waiting:
            if time.monotonic() > deadline:
                raise TimeoutError("the other side says nothing")
            if (lines := self.read()) is None:
                raise ConnectionError("the other side has closed the connection")
            self._waiting = lines
        return self._waiting.pop(0)

    def read(self) -> list[str] | None:
        """The lines that have arrived; None at the end of the connection, or if the peer breaks the protocol."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            return waiting
        try:
            data = self.connection.recv(4096)
        except TimeoutError:
            return []
        except OSError:
            return None
        self.heard = time.monotonic()
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        if not data or len(self._unfinished) > LONGEST_LINE:
            return None
        return [line.decode(errors="replace") for line in lines]


def encoded(text: str) -> bytes:
    """The text as one line of at most LONGEST_LINE bytes, cut where it is longer."""
    return " ".join(text.split()).encode()[: LONGEST_LINE - 1] + b"\n"


def loss_in(line: str) -> Loss | None:
    """The loss that a line announces; None for other lines."""
    kind, _, rest = line.partition(" ")
    rank, _, what = rest.partition(" ")
    return Loss(int(rank), what, kind == "returns") if kind in ("lost", "returns") and rank.isdecimal() else None
