"""Signs of life: which learner is lost, said within seconds, whatever the others are waiting for.

Learners that wait for one that was stopped, killed or cut off would do so until the timeout of a collective, minutes
later, and then know an address at best. So each has a thread that sends a sign of life once a period to learner 0,
which answers with its own (a star: 2 (L - 1) short messages per period). A closed connection, or silence for longer
than the patience, is a *loss*: learner 0 tells it to all. Learner 0's own loss everybody sees for itself. A learner
that ends with an error says so first. A process that was itself suspended accuses nobody of the time it missed.
"""

import logging
import secrets
import selectors
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from distributed.learners.signs import Loss, Peer, loss_in

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
_BEATS = 7  # signs of life within the patience
CLOSED = "has ended or was killed: its connection is closed"


class Liveness(ABC):
    """One learner's watch over the others, in a thread of its own.

    Args:
        patience_seconds: the longest silence of a learner.
        on_loss: called once, from the watching thread, when another learner is lost.
    """

    def __init__(self, *, rank: int, patience_seconds: float, on_loss: Callable[[Loss], None]) -> None:
        self.rank = rank
        self.patience_seconds = patience_seconds
        self.period_seconds = patience_seconds / _BEATS
        self._on_loss = on_loss
        self._known = threading.Event()
        self._loss: Loss | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="liveness", daemon=True)

    @property
    def loss(self) -> Loss | None:
        """The first loss that this learner heard of; what follows from it is not told."""
        return self._loss

    def wait_for_loss(self) -> Loss | None:
        """Whoever is lost by now is known when this returns; None if all are alive."""
        self._known.wait(self.patience_seconds + 2 * self.period_seconds)
        return self._loss

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """End the watch; the others are told that this learner is done, unless it said that it failed."""
        self._closing.set()
        self._thread.join()

    @abstractmethod
    def failed(self, what: str) -> None:
        """Tell the others that this learner ends, and why, in a line."""

    @abstractmethod
    def _watch(self) -> None:
        """What the thread does until ``close``."""

    def _lose(self, loss: Loss) -> None:
        if self._loss is None and not self._closing.is_set():
            self._loss = loss
            self._known.set()
            self._on_loss(loss)

    def _silent(self) -> str:
        return (
            f"has shown no sign of life for {self.patience_seconds:g} seconds: it is stopped, stuck or cut off "
            "(launch.patience_seconds)"
        )


def _listener(interface: str) -> socket.socket:
    if interface:
        return socket.create_server((interface, 0), family=socket.AF_INET6 if ":" in interface else socket.AF_INET)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


class Centre(Liveness):
    """Learner 0: hears all the others and tells them of losses. Listens from its construction on."""

    def __init__(self, *, interface: str, patience_seconds: float, on_loss: Callable[[Loss], None]) -> None:
        super().__init__(rank=0, patience_seconds=patience_seconds, on_loss=on_loss)
        self.token = secrets.token_hex(16)  # who knows it was told by the rendezvous
        self._listener = _listener(interface)
        self.port: int = self._listener.getsockname()[1]
        self._peers: list[Peer] = []
        self._own_failure: str | None = None
        self._news: str | None = None  # the line of the first loss, for those who come later

    def failed(self, what: str) -> None:
        self._own_failure = what

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector, self._listener:
            selector.register(self._listener, selectors.EVENT_READ)
            last_beat = time.monotonic()
            while not self._closing.is_set():
                self._serve(selector, self.period_seconds / 4)
                self._tell_own_failure()
                now = time.monotonic()
                if now - last_beat >= self.period_seconds:
                    self._beat(missed_seconds=now - last_beat - self.period_seconds)
                    self._drop_strangers(selector)
                    last_beat = now
            for _ in range(2):  # who has just connected, and said who it is, shall hear how this ends
                self._serve(selector, 0.0)
            self._tell_own_failure()
            for peer in self._peers:
                peer.finish()
            over = time.monotonic() + self.period_seconds
            for peer in self._peers:
                peer.close(over - time.monotonic())

    def _serve(self, selector: selectors.BaseSelector, seconds: float) -> None:
        for key, _ in selector.select(seconds):
            if key.fileobj is self._listener:
                self._accept(selector)
            else:
                self._hear(key.data, selector)

    def _tell_own_failure(self) -> None:
        if self._own_failure is not None:
            self._tell_loss(Loss(0, f"failed: {self._own_failure}"))
            self._own_failure = None

    def _tell_loss(self, loss: Loss) -> None:
        if self._news is None:
            self._news = loss.line
            self._tell(loss.line)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(self.period_seconds)
        self._peers.append(peer := Peer(connection))
        selector.register(connection, selectors.EVENT_READ, peer)

    def _hear(self, peer: Peer, selector: selectors.BaseSelector) -> None:
        lines = peer.read()
        for line in lines or ():
            if peer.rank is None:
                peer.rank = self._introduced(line)
                if peer.rank is not None and self._news is not None:
                    peer.send(self._news)
            elif line == "done":
                peer.done = True
            elif loss := loss_in(line):
                self._lose(loss)
        if lines is None or (lines and peer.rank is None):
            self._drop(peer, selector)
            if peer.rank is not None and not peer.done:
                self._lose(Loss(peer.rank, CLOSED))

    def _drop(self, peer: Peer, selector: selectors.BaseSelector) -> None:
        selector.unregister(peer.connection)
        peer.connection.close()
        self._peers.remove(peer)

    def _introduced(self, line: str) -> int | None:
        word, _, rest = line.partition(" ")
        rank, _, token = rest.partition(" ")
        told = word == "learner" and rank.isdecimal() and secrets.compare_digest(token.encode(), self.token.encode())
        return int(rank) if told else None

    def _beat(self, missed_seconds: float) -> None:
        self._tell("alive")
        for peer in self._peers:
            peer.heard += missed_seconds  # this process itself was suspended, or had no processor
            if peer.rank is not None and not peer.done and time.monotonic() - peer.heard > self.patience_seconds:
                self._lose(Loss(peer.rank, self._silent()))

    def _drop_strangers(self, selector: selectors.BaseSelector) -> None:
        """Who has not introduced itself in all the time is no learner."""
        for peer in [each for each in self._peers if each.rank is None]:
            if time.monotonic() - peer.heard > self.patience_seconds:
                self._drop(peer, selector)

    def _lose(self, loss: Loss) -> None:
        self._tell_loss(loss)
        super()._lose(loss)

    def _tell(self, line: str) -> None:
        for peer in self._peers:
            if peer.rank is not None:
                peer.send(line)


class Member(Liveness):
    """Any other learner: hears learner 0, and through it of all."""

    def __init__(
        self,
        *,
        rank: int,
        address: tuple[str, int],
        token: str,
        patience_seconds: float,
        on_loss: Callable[[Loss], None],
    ) -> None:
        super().__init__(rank=rank, patience_seconds=patience_seconds, on_loss=on_loss)
        self._address = address
        self._token = token
        self._centre: Peer | None = None

    def start(self) -> None:
        """Connect to learner 0 and begin to watch. OSError if it cannot be reached."""
        connection = socket.create_connection(self._address, timeout=self.patience_seconds)
        connection.settimeout(self.period_seconds / 2)
        self._centre = Peer(connection)
        self._centre.send(f"learner {self.rank} {self._token}")
        super().start()

    @property
    def centre(self) -> Peer:
        """The connection to learner 0."""
        if self._centre is None:
            raise RuntimeError("liveness.start() comes first")
        return self._centre

    def failed(self, what: str) -> None:
        self.centre.send(Loss(self.rank, f"failed: {what}").line)

    def _watch(self) -> None:
        last_beat = time.monotonic()
        while not self._closing.is_set() and not self.centre.done and self._loss is None:
            self._hear()
            now = time.monotonic()
            if now - last_beat >= self.period_seconds:
                self.centre.heard += now - last_beat - self.period_seconds
                self.centre.send("alive")
                last_beat = now
                if now - self.centre.heard > self.patience_seconds:
                    self._lose(Loss(0, self._silent()))
        self.centre.finish()
        self.centre.close(self.period_seconds)

    def _hear(self) -> None:
        lines = self.centre.read()
        for line in lines or ():
            if line == "done":
                self.centre.done = True
            elif loss := loss_in(line):
                self._lose(loss)
        if lines is None and not self.centre.done:
            self._lose(Loss(0, CLOSED))
