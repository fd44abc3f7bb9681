"""Learner 0's side of the signs of life: it hears all the others, announces losses, and knows who has not connected.

All learners have to come to it, and then to be connected with each other, within ``launch.join_seconds``, counted
from its own start; those who have not are a loss like any other. It listens until the last one is connected.
"""

import secrets
import selectors
import time
from collections.abc import Callable

from distributed.learners.connections import listener
from distributed.learners.liveness import CLOSED, Liveness
from distributed.learners.secret import drawn, proof, proves
from distributed.learners.signs import UNREACHABLE, Loss, Peer, late, loss_in
from distributed.learners.stopping import Agreement, Gate

_BACKLOG = 1024  # all learners may come at once
_STRANGERS = 256  # most connections that have not introduced themselves yet


class Centre(Liveness):
    """Learner 0: hears all the others and announces losses to them. Listens from its construction on.

    Args:
        size: number of learners, this one included.
        join_seconds: seconds until all learners must have come and be connected.
    """

    def __init__(
        self,
        *,
        size: int,
        interface: str,
        secret: bytes,
        join_seconds: float,
        patience_seconds: float,
        on_loss: Callable[[Loss], None],
        gate: Gate | None = None,
    ) -> None:
        super().__init__(rank=0, patience_seconds=patience_seconds, on_loss=on_loss, gate=gate)
        self._agreement = Agreement(size)
        self.launch_id = secrets.token_hex(4)
        self._secret = secret
        self._join_seconds = join_seconds
        self._deadline = time.monotonic() + join_seconds
        self._to_come = set(range(1, size))
        self._to_join = set(range(size))
        self._listener = listener(interface, backlog=_BACKLOG)
        self.port: int = self._listener.getsockname()[1]
        self._peers: list[Peer] = []
        self._own_failure: Loss | None = None
        self._news: str | None = None  # the line of the first loss, sent also to learners that connect later

    def _say_joined(self) -> None:
        self._to_join.discard(0)

    def failed(self, what: str, *, returns: bool = False) -> None:
        self._own_failure = Loss(0, f"failed: {what}", returns)

    def _say_stop(self, why: str) -> None:
        if self.gate.why is None:
            self._tell(f"stop {why}")
            self.gate.stop(why)

    def _say_begun(self, point: int) -> None:
        self._hear_begun(0, point)

    def _hear_begun(self, learner: int, point: int) -> None:
        agreed = self._agreement.hear(learner, point)
        if agreed is not None:
            self._tell(f"until {agreed}")
            self.gate.settle(agreed)

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector, self._listener:
            selector.register(self._listener, selectors.EVENT_READ)
            last_beat = time.monotonic()
            while not self._closing.is_set():
                self._serve(selector, self.period_seconds / 4)
                self._gather(selector)
                self._tell_own_failure()
                self._agree()
                now = time.monotonic()
                if now - last_beat >= self.period_seconds:
                    self._beat(now, missed_seconds=now - last_beat - self.period_seconds)
                    self._drop_strangers(selector, now)
                    last_beat = now
            for _ in range(3):  # a few more rounds, so that learners that have just connected hear how this ends
                self._serve(selector, 0.0)
            self._tell_own_failure()
            for peer in self._peers:
                peer.finish()
            over = time.monotonic() + self.period_seconds
            for peer in self._peers:
                peer.close(over - time.monotonic())

    def _gather(self, selector: selectors.BaseSelector) -> None:
        """Announce when all learners have come, stop listening once all are connected, name those that are late."""
        if self._connected.is_set():
            return
        if not self._to_join:
            self._tell("connected")
            self._stop_listening(selector)
            self._connected.set()
            return
        if not self._to_come and not self._together.is_set():
            self._tell("together")
            self._together.set()
        if time.monotonic() > self._deadline and self.loss is None:
            if self._to_come:
                self._lose(late(self._to_come, "come", self._join_seconds))
            else:
                self._lose(late(self._to_join, "connected to the others", self._join_seconds, f": {UNREACHABLE}"))

    def _stop_listening(self, selector: selectors.BaseSelector) -> None:
        selector.unregister(self._listener)
        self._listener.close()
        for peer in [each for each in self._peers if each.rank is None]:
            self._drop(peer, selector)

    def _serve(self, selector: selectors.BaseSelector, seconds: float) -> None:
        for key, _ in selector.select(seconds):
            if key.fileobj is self._listener:
                self._accept(selector)
            elif key.data in self._peers:  # not dropped just now
                self._hear(key.data, selector)

    def _tell_own_failure(self) -> None:
        if self._own_failure is not None:
            self._tell_loss(self._own_failure)
            self._own_failure = None

    def _tell_loss(self, loss: Loss) -> None:
        if self._news is None:
            self._news = loss.line
            self._tell(loss.line)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        strangers = [each for each in self._peers if each.rank is None]
        if len(strangers) >= _STRANGERS:
            self._drop(strangers[0], selector)
        try:
            connection, _ = self._listener.accept()
        except OSError:  # no descriptor is left, or the other side has gone again
            if strangers:
                self._drop(strangers[-1], selector)
            return
        connection.settimeout(self.period_seconds)
        self._peers.append(peer := Peer(connection))
        selector.register(connection, selectors.EVENT_READ, peer)
        peer.nonce = drawn()
        peer.send(f"challenge {peer.nonce}")

    def _hear(self, peer: Peer, selector: selectors.BaseSelector) -> None:
        lines = peer.read()
        for line in lines or ():
            if peer.rank is None:
                self._meet(peer, line)
            elif line == "joined":
                self._to_join.discard(peer.rank)
            elif line.startswith("stop "):
                self._say_stop(line.removeprefix("stop "))
            elif line.startswith("begun ") and (point := line.removeprefix("begun ")).isdecimal():
                self._hear_begun(peer.rank, int(point))
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

    def _meet(self, peer: Peer, line: str) -> None:
        """Admit a learner that introduces itself, knows the secret and is awaited."""
        word, rank, nonce, claimed = (line.split(" ") + [""] * 4)[:4]
        port = str(self.port)  # in both proofs, so that they hold at this door alone
        if word != "learner" or not proves(claimed, self._secret, "member", peer.nonce, nonce, rank, port):
            return
        if int(rank) not in self._to_come:
            return
        peer.rank = int(rank)
        peer.send(f"welcome {self.launch_id} {proof(self._secret, 'centre', peer.nonce, nonce, self.launch_id, port)}")
        self._to_come.discard(peer.rank)
        if self._news is not None:
            peer.send(self._news)

    def _beat(self, now: float, missed_seconds: float) -> None:
        """Judge silence at the time ``now``, when what had arrived was read: a pause from then on is nobody's silence."""
        for peer in self._peers:
            # This process itself was suspended, or had no processor; who was heard since has not been silent at all.
            peer.heard = min(max(now, peer.heard), peer.heard + missed_seconds)
            if peer.rank is not None and not peer.done and now - peer.heard > self.patience_seconds:
                self._lose(Loss(peer.rank, self._silent()))
        self._tell("alive")

    def _drop_strangers(self, selector: selectors.BaseSelector, now: float) -> None:
        """Drop connections that did not introduce themselves in time: they are no learners."""
        for peer in [each for each in self._peers if each.rank is None]:
            if now - peer.heard > self.patience_seconds:
                self._drop(peer, selector)

    def _lose(self, loss: Loss) -> None:
        self._tell_loss(loss)
        super()._lose(loss)

    def _tell(self, line: str) -> None:
        for peer in self._peers:
            if peer.rank is not None:
                peer.send(line)
