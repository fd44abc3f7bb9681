"""Signs of life: a lost learner is named within seconds, whatever the others are waiting for.

Learners that wait for one that was stopped, killed or cut off would do so until the timeout of a collective, minutes
later, and then know an address at best. So each has a thread that sends a sign of life once a period to learner 0,
which answers with its own (a star: 2 (L - 1) short messages per period). A closed connection, or silence for longer
than the patience, is a *loss*: learner 0 announces it to all. Every learner notices the loss of learner 0 by itself. A
learner that ends with an error announces it first. A process that was itself suspended does not count that time.

Who connects to learner 0 has come, and from then on is watched, before there is any process group: see centre.py.
"""

import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from distributed.errors import LearnerError
from distributed.learners.environment import SECRET
from distributed.learners.secret import drawn, proof, proves
from distributed.learners.signs import LearnerLostError, Loss, Peer, loss_in
from distributed.learners.stopping import Gate

LOOPBACK = "127.0.0.1"
_BEATS = 7  # signs of life within the patience
_LONGEST_PERIOD_SECONDS = 1.0
CLOSED = "has ended or was killed: its connection is closed"


class Liveness(ABC):
    """One learner's watch over the others, in a thread of its own.

    Args:
        patience_seconds: the longest silence of a learner.
        on_loss: called once, from the watching thread, when another learner is lost.
        gate: through which this learner is stopped where all agree to stop.
    """

    def __init__(
        self, *, rank: int, patience_seconds: float, on_loss: Callable[[Loss], None], gate: Gate | None = None
    ) -> None:
        self.rank = rank
        self.gate = gate or Gate(alone=False)
        self.launch_id = ""  # the same on all learners, another one at each start
        self.patience_seconds = patience_seconds
        self.period_seconds = min(patience_seconds / _BEATS, _LONGEST_PERIOD_SECONDS)
        self._on_loss = on_loss
        self._together = threading.Event()  # set once all learners have come
        self._connected = threading.Event()  # set once all are connected with each other
        self._known = threading.Event()
        self._loss: Loss | None = None
        self._closing = threading.Event()
        self._asked_others = False  # whether this learner has passed on that it was asked to stop
        self._answered = False  # whether learner 0 knows where it can stop
        self._thread = threading.Thread(target=self._watch, name="liveness", daemon=True)

    @property
    def loss(self) -> Loss | None:
        """The first loss that this learner heard of; losses that follow from it are not reported."""
        return self._loss

    def wait_for_loss(self) -> Loss | None:
        """Wait for one patience; return the loss that is known by then, None if all learners are alive."""
        self._known.wait(self.patience_seconds + 2 * self.period_seconds)
        return self._loss

    def wait_for_all(self) -> None:
        """Return when all learners have come. LearnerLostError if one has not, or is lost before."""
        self._until(self._together)

    def joined(self) -> None:
        """Say that this learner is connected to all others; return when all are. LearnerLostError if one is not."""
        self._say_joined()
        self._until(self._connected)

    def _until(self, event: threading.Event) -> None:
        event.wait()
        if self._loss is not None:
            raise LearnerLostError(self._loss)

    def start(self) -> None:
        """Start the watching thread."""
        self._thread.start()

    def close(self) -> None:
        """End the watch; tells the others that this learner is done, unless it has announced a failure."""
        self._closing.set()
        self._thread.join()

    @abstractmethod
    def _say_joined(self) -> None:
        """Tell learner 0 that this one is connected to all others."""

    @abstractmethod
    def failed(self, what: str, *, returns: bool = False) -> None:
        """Tell the others that this learner ends, and why, in a line. ``returns``: to go on from a checkpoint."""

    @abstractmethod
    def _say_stop(self, why: str) -> None:
        """Ask all learners to stop."""

    @abstractmethod
    def _say_begun(self, point: int) -> None:
        """Tell learner 0 where this learner can stop."""

    def _agree(self) -> None:
        """Pass on what the training thread has been asked, and how far it has gone."""
        if self.gate.asked is not None and not self._asked_others:
            self._asked_others = True
            self._say_stop(self.gate.asked)
        if not self._answered and (point := self.gate.answer()) is not None:
            self._answered = True
            self._say_begun(point)

    @abstractmethod
    def _watch(self) -> None:
        """Body of the watching thread; runs until ``close``."""

    def _lose(self, loss: Loss) -> None:
        if self._loss is None and not self._closing.is_set():
            self._loss = loss
            self._known.set()
            self._together.set()
            self._connected.set()
            self._on_loss(loss)

    def _silent(self) -> str:
        return (
            f"has shown no sign of life for {self.patience_seconds:g} seconds: it is stopped, stuck or cut off "
            "(launch.patience_seconds)"
        )


class StrangerError(LearnerError):
    """Learner 0 and this learner do not know the same secret."""

    def __init__(self) -> None:
        super().__init__(
            f"learner 0 and this one do not know the same secret: set {SECRET} to the same long random text for all learners"
        )


class Member(Liveness):
    """Any other learner: hears learner 0, and through it of all."""

    def __init__(
        self,
        *,
        rank: int,
        address: tuple[str, int],
        secret: bytes,
        patience_seconds: float,
        on_loss: Callable[[Loss], None],
        gate: Gate | None = None,
    ) -> None:
        super().__init__(rank=rank, patience_seconds=patience_seconds, on_loss=on_loss, gate=gate)
        self._address = address
        self._secret = secret
        self._centre: Peer | None = None

    def start(self) -> None:
        """Connect to learner 0 and begin to watch.

        Raises:
            OSError: it cannot be reached, or has ended.
            StrangerError: the secrets differ.
        """
        connection = socket.create_connection(self._address, timeout=self.patience_seconds)
        connection.settimeout(self.period_seconds / 2)
        self._centre = Peer(connection)
        try:
            self._introduce(self._centre)
        except BaseException:
            connection.close()
            raise
        super().start()

    def _introduce(self, centre: Peer) -> None:
        word, _, theirs = centre.next_line(self.patience_seconds).partition(" ")
        own, rank = drawn(), str(self.rank)
        port = str(self._address[1])  # a relay listens at another one
        centre.send(f"learner {rank} {own} {proof(self._secret, 'member', theirs, own, rank, port)}")
        answer = centre.next_line(self.patience_seconds).split(" ")
        if (
            word != "challenge"
            or len(answer) != 3
            or not proves(answer[2], self._secret, "centre", theirs, own, answer[1], port)
        ):
            raise StrangerError
        self.launch_id = answer[1]

    @property
    def centre(self) -> Peer:
        """The connection to learner 0."""
        if self._centre is None:
            raise RuntimeError("liveness.start() comes first")
        return self._centre

    def _say_joined(self) -> None:
        self.centre.send("joined")

    def failed(self, what: str, *, returns: bool = False) -> None:
        self.centre.send(Loss(self.rank, f"failed: {what}", returns).line)

    def _say_stop(self, why: str) -> None:
        self.centre.send(f"stop {why}")

    def _say_begun(self, point: int) -> None:
        self.centre.send(f"begun {point}")

    def _watch(self) -> None:
        last_beat = time.monotonic()
        while not self._closing.is_set() and not self.centre.done and self._loss is None:
            self._hear()
            self._agree()
            now = time.monotonic()
            if now - last_beat >= self.period_seconds:
                self.centre.heard += now - last_beat - self.period_seconds
                self.centre.send("alive")
                last_beat = now
                if now - self.centre.heard > self.patience_seconds:
                    self._lose(Loss(0, self._silent()))
        if self._loss is not None and self._loss.learner == 0:
            self.centre.send(self._loss.line)  # it may only have been suspended, and would take "done" for a good end
        self.centre.finish()
        self.centre.close(self.period_seconds)

    def _hear(self) -> None:
        lines = self.centre.read()
        for line in lines or ():
            word, _, rest = line.partition(" ")
            if word == "stop":
                self.gate.stop(rest)
            elif word == "until" and rest.isdecimal():
                self.gate.settle(int(rest))
            elif line == "done":
                self.centre.done = True
            elif line == "together":
                self._together.set()
            elif line == "connected":
                self._connected.set()
            elif loss := loss_in(line):
                self._lose(loss)
        if (lines is None and not self.centre.done) or (self.centre.done and not self._connected.is_set()):
            self._lose(Loss(0, CLOSED))
