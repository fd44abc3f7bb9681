"""What a learner sends, receives and waits for, counted where it happens; and when it did, for the newest steps."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

NEWEST_SPANS = 2048  # how many are kept: some tens of steps


class Span(NamedTuple):
    """Something that took a learner some time; both ends are readings of ``time.perf_counter``."""

    kind: Literal[
        "waiting", "exchange"
    ]  # computation waits for others | an exchange is under way, begun and not yet mixed in
    start: float
    end: float


def all_reduce_bytes(payload_bytes: int, learners: int) -> int:
    """Bytes that each learner sends, and receives, in a ring all-reduce: 2(L-1)/L of the buffer."""
    return 2 * (learners - 1) * payload_bytes // learners


def broadcast_copies_sent(rank: int, source: int, learners: int) -> int:
    """Number of copies that learner ``rank`` sends in gloo's broadcast, a binomial tree that starts at ``source``.

    In round k the first 2^k learners hand the buffer to the next 2^k.
    """
    place = (rank - source) % learners
    distances = [1 << k for k in range((learners - 1).bit_length())]
    return sum(place < distance < learners - place for distance in distances)


@dataclass(slots=True)
class Traffic:
    """Counters of one learner since ``take`` was last called. Bytes are those on the wire, without headers."""

    bytes_sent: int = 0
    bytes_received: int = 0
    control_bytes_sent: int = 0  # the part of the above that does not belong to the exchange of a step
    control_bytes_received: int = 0
    rounds: int = 0  # of agreement: gradient reductions, or exchanges of weights
    steps: int = 0
    exposed_seconds: float = 0.0
    _spans: deque[Span] = field(default_factory=lambda: deque(maxlen=NEWEST_SPANS), repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)  # of the spans

    def count(self, sent: int, received: int) -> None:
        """Add one message each way."""
        self.bytes_sent += sent
        self.bytes_received += received

    def count_all_reduce(self, payload_bytes: int, learners: int) -> None:
        """Add one ring all-reduce."""
        wire_bytes = all_reduce_bytes(payload_bytes, learners)
        self.count(wire_bytes, wire_bytes)

    @contextmanager
    def control(self) -> Iterator[None]:
        """Wraps communication outside the exchange of a step: starts, agreements, models of evaluations."""
        sent, received = self.bytes_sent, self.bytes_received
        try:
            yield
        finally:
            self.control_bytes_sent += self.bytes_sent - sent
            self.control_bytes_received += self.bytes_received - received

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wraps communication that computation waits for; the wait for slower learners counts too."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.waited_since(start)

    def waited_since(self, start: float) -> None:
        """Count the time since ``start``, a reading of ``time.perf_counter``, as one in which computation waited."""
        end = time.perf_counter()
        self.exposed_seconds += end - start
        self._note(Span("waiting", start, end))

    def exchanged_since(self, start: float) -> None:
        """Note that an exchange began at ``start`` and has just ended. Any thread may call this."""
        self._note(Span("exchange", start, time.perf_counter()))

    def newest_spans(self) -> list[Span]:
        """The newest waits and exchanges, by their ends. Any thread may call this."""
        with self._lock:
            return list(self._spans)

    def _note(self, span: Span) -> None:
        with self._lock:
            self._spans.append(span)

    def take(self) -> dict[str, float]:
        """Return the metrics and reset the counters; spans stay. Bytes and rounds are totals, the others averages per step."""
        figures: dict[str, float] = {
            "comm/bytes_sent": self.bytes_sent,
            "comm/bytes_received": self.bytes_received,
            "comm/control_bytes_sent": self.control_bytes_sent,
            "comm/control_bytes_received": self.control_bytes_received,
            "comm/rounds": self.rounds,
        }
        if self.steps:
            figures["comm/rounds_per_step"] = self.rounds / self.steps
            figures["time/comm_exposed"] = self.exposed_seconds / self.steps
        self.bytes_sent = self.bytes_received = self.control_bytes_sent = self.control_bytes_received = 0
        self.rounds = self.steps = 0
        self.exposed_seconds = 0.0
        return figures
