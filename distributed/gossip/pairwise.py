"""Exchanges of weights between two learners, in the background: one end initiates, the other always answers.

    both:  s = snapshot(w)      send s, receive s' of the other      w  +=  a (s' - s)

Both ends apply the same pair of snapshots with opposite signs, so the sum over learners is conserved however many
updates land in between (the delta form of AD-PSGD, Lian et al. 2018, arXiv 1710.06952; arXiv 2110.11199, section III).
The answering thread serves whoever asks, one after the other, and nothing that it does waits for its own learner's
computation or initiator. So no cycle of waits can arise, on odd rings as little as on even ones.

Messages (gloo, a group of its own): HEADER says that an exchange begins or that the group ends; ASKING is the
initiator's snapshot, ANSWER the other's. Receives are posted before sends (see ``transport``).
"""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Protocol

import torch
from torch.distributed import ProcessGroup, Work

from distributed.errors import UserError
from distributed.gossip.finite import NonFiniteWeightsError, check_own, refuse_non_finite
from distributed.gossip.mixing import pair_difference
from distributed.gossip.packing import Message, Packing
from distributed.gossip.pending import PendingMixing

_HEADER, _ASKING, _ANSWER = 0, 1 << 10, 2 << 10  # tags; those of the payloads are followed by the buffer's number
_EXCHANGE, _END = 0, 1
_IDLE = timedelta(days=365)  # longest wait of the answering thread for a request: a quiet neighbour is no failure


class ExchangeError(UserError, ConnectionError):
    """A learner stopped answering, or has ended; the message names it."""


class OnExchange(Protocol):
    """Called after every completed exchange."""

    def __call__(self, *, payload_bytes: int, initiated: bool, began_at: float) -> None:
        """Count ``payload_bytes`` sent and as many received; ``initiated``: this learner began the exchange.

        ``began_at``: when it asked or was asked, a reading of ``time.perf_counter``.
        """


class Buffers:
    """Memory for one exchange at a time: the snapshot to send and the message to receive."""

    gamma = 1.0  # of the way that an exchange's weight gives, how much is gone

    def __init__(self) -> None:
        self._packing: Packing | None = None
        self.own: Message = []  # the snapshot
        self.other: Message = []  # what is received, then the difference that comes of it

    def fit(self, packing: Packing) -> None:
        """Allocate messages of ``packing`` unless the present ones fit."""
        if self._packing is not packing:
            self._packing, self.own, self.other = packing, packing.message(), packing.message()

    def incoming(self, peer: int) -> Message:
        """Where the message of ``peer`` is received."""
        return self.other

    def outgoing(self, peer: int) -> Message:
        """The message that tells ``peer`` of the snapshot; to be sent."""
        return self.own

    @torch.no_grad()
    def difference(self, peer: int, received: Message) -> Message:
        """s' - s, computed in ``other``, which it overwrites; NonFiniteWeightsError if ``received`` is not finite."""
        refuse_non_finite(received, peer)
        return [pair_difference(own, other) for own, other in zip(self.own, self.other, strict=True)]


class Pairwise:
    """Both ends' rules for exchanges over one group; each learner has one, used by its two threads.

    ``ranks``: those of the group's members among all learners, by which errors name them; None where they are the same.
    """

    def __init__(
        self,
        *,
        group: ProcessGroup,
        mixing: PendingMixing,
        on_exchange: OnExchange,
        ranks: Sequence[int] | None = None,
    ) -> None:
        self.group = group
        self.ranks = range(group.size()) if ranks is None else ranks
        self.mixing = mixing
        self.on_exchange = on_exchange
        self._end = torch.tensor([_END, 0.0], dtype=torch.float64)  # gloo reads it when it gets to send it,
        self._ending: list[Work] = []  # and sends nothing whose handle is gone

    def initiate(self, peer: int, weight: float, buffers: Buffers) -> None:
        """Exchange with ``peer``; returns when its answer is pending here.

        Raises:
            ExchangeError: the connection to ``peer`` is lost, or it did not answer within the group's timeout.
        """
        buffers.fit(self.mixing.packing)
        began_at = time.perf_counter()
        try:
            received = buffers.incoming(peer)
            works = [self.group.recv([b], peer, _ANSWER + tag) for tag, b in enumerate(received)]
            taken_at = self.mixing.snapshot(buffers.own)
            check_own(buffers.own, self.ranks[self.group.rank()])
            header = torch.tensor([_EXCHANGE, weight], dtype=torch.float64)
            works.append(self.group.send([header], peer, _HEADER))
            message = buffers.outgoing(peer)
            works += [self.group.send([b], peer, _ASKING + tag) for tag, b in enumerate(message)]
            _wait(works)
        except NonFiniteWeightsError:
            raise
        except RuntimeError as error:
            raise ExchangeError(
                f"learner {self.ranks[peer]} does not answer an exchange of weights any more: {error}"
            ) from error
        buffers.other = self.mixing.add(self._difference(peer, received, buffers), weight * buffers.gamma, taken_at)
        self.on_exchange(payload_bytes=_total_bytes(message), initiated=True, began_at=began_at)

    def answer(self, buffers: Buffers) -> bool:
        """Wait for a request and serve it; False if the message ends the exchanges.

        Raises:
            ExchangeError: a learner was lost while this one waited, or during the exchange.
        """
        header = torch.zeros(2, dtype=torch.float64)
        try:
            work = self.group.recv_anysource([header], _HEADER)
            work.wait(_IDLE)
        except RuntimeError as error:
            raise ExchangeError(f"another learner was lost: {error}") from error
        peer = int(work._source_rank())
        kind, weight = header.tolist()
        if kind == _END:
            return False
        buffers.fit(self.mixing.packing)
        began_at = time.perf_counter()
        try:
            received = buffers.incoming(peer)
            works = [self.group.recv([b], peer, _ASKING + tag) for tag, b in enumerate(received)]
            taken_at = self.mixing.snapshot(buffers.own)
            check_own(buffers.own, self.ranks[self.group.rank()])
            message = buffers.outgoing(peer)
            works += [self.group.send([b], peer, _ANSWER + tag) for tag, b in enumerate(message)]
            _wait(works)
        except NonFiniteWeightsError:
            raise
        except RuntimeError as error:
            raise ExchangeError(f"learner {self.ranks[peer]} was lost in an exchange of weights: {error}") from error
        buffers.other = self.mixing.add(self._difference(peer, received, buffers), weight * buffers.gamma, taken_at)
        self.on_exchange(payload_bytes=_total_bytes(message), initiated=False, began_at=began_at)
        return True

    def _difference(self, peer: int, received: Message, buffers: Buffers) -> Message:
        try:
            return buffers.difference(peer, received)
        except NonFiniteWeightsError:
            raise NonFiniteWeightsError(f"learner {self.ranks[peer]} sent") from None

    def end(self, peer: int) -> None:
        """Tell ``peer``'s answering thread to stop; returns at once. RuntimeError if there is no connection."""
        self._ending.append(self.group.send([self._end], peer, _HEADER))


def _total_bytes(message: Message) -> int:
    return sum(part.nbytes for part in message)


def _wait(works: Sequence[Work]) -> None:
    for work in works:
        work.wait()


class Background:
    """A thread that runs ``work`` until it returns False, and keeps the error that ended it otherwise."""

    def __init__(self, name: str, work: Callable[[], bool], on_error: Callable[[], None]) -> None:
        self.error: Exception | None = None
        self._work = work
        self._on_error = on_error
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait at most ``seconds`` for the thread to end: it may be stuck in an exchange with a lost learner."""
        self._thread.join(seconds)

    def _run(self) -> None:
        torch.set_num_threads(1)
        try:
            while self._work():
                pass
        except Exception as error:
            self.error = error
            self._on_error()
