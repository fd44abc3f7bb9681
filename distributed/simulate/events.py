"""An event queue of asynchronous learners: units of a common pool, exchanges between two, bounded staleness.

The rules are those of distributed/schemes/adpsgd.py: a step allows ``rounds_per_step`` more rounds of gossip; one
thread of a learner initiates the exchanges of its rounds one after the other, another answers one exchange after the
other; a step waits where an exchange in flight is ``max_staleness`` own updates old. What weights do meanwhile is the
business of ``Learning``: the same queue serves the convergence simulator and the time simulator.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from distributed.gossip.initiated import initiated
from distributed.gossip.topology import Topology
from distributed.simulate.pace import Pace


class Learning(Protocol):
    """What the events do to the learners."""

    def update(self, learner: int, unit: int) -> None:
        """``learner`` ends unit number ``unit`` of the pool: what has come in is folded in, then its own update."""

    def snapshot(self, learner: int, initiates: bool) -> None:
        """``learner`` enters an exchange with its present weights; it is in one that it ``initiates`` and one other at most."""

    def mix(self, initiator: int, answerer: int, weight: float) -> None:
        """The exchange between two learners ends."""

    def oldest(self, learner: int) -> int:
        """Age of the learner's oldest exchange in flight, in its own updates."""


class Link(Protocol):
    """When exchanges end."""

    def ends(self, now: float, initiator: int, answerer: int) -> float:
        """The time at which an exchange ends that both are ready for at ``now``."""


@dataclass(frozen=True, slots=True)
class FixedLink:
    """Every exchange takes as long."""

    exchange_seconds: float

    def ends(self, now: float, initiator: int, answerer: int) -> float:
        return now + self.exchange_seconds


@dataclass(slots=True)
class Learner:
    """The state of one learner in the queue."""

    units: int = 0  # its own, ended
    rounds: int = 0  # of gossip, initiated and ended
    allowed: float = 0.0
    edges: deque[tuple[int, float]] = field(default_factory=deque)  # exchanges left of the round under way
    in_round: bool = False
    running: bool = False
    held: int | None = None  # unit that waits for an exchange which has become too old
    answering: bool = False
    asked: deque[tuple[int, float]] = field(default_factory=deque)  # who waits for an answer, and the weight
    work_seconds: float = 0.0  # of exchanges, which the next unit pays
    ended_at: float = 0.0


class Events:
    """Runs learners until a pool of units is empty and nothing is in flight.

    Args:
        work_seconds: what an exchange takes from the computation of each of its two ends.
    """

    def __init__(
        self,
        *,
        learners: int,
        pace: Pace,
        link: Link,
        topology: Topology,
        rounds_per_step: float,
        max_staleness: int,
        learning: Learning,
        work_seconds: float = 0.0,
    ) -> None:
        self.pace = pace
        self.link = link
        self.topology = topology
        self.rounds_per_step = rounds_per_step
        self.max_staleness = max_staleness
        self.learning = learning
        self.work_seconds = work_seconds
        self.now = 0.0
        self.exchanges = 0
        self.unit_ends: list[float] = []  # times, in order
        self.learners = [Learner() for _ in range(learners)]
        self._pool: deque[int] = deque()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()

    def run(self, units: Iterable[int]) -> None:
        """Let the learners take the units of the pool, given by their numbers; returns when all is done and mixed."""
        self._pool.extend(units)
        for each in range(len(self.learners)):
            self._begin(each)
        while self._queue:
            self.now, _, action = heapq.heappop(self._queue)
            action()

    def _at(self, time: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (time, next(self._number), action))

    # Steps

    def _begin(self, number: int) -> None:
        learner = self.learners[number]
        learner.running = bool(self._pool)
        if not learner.running:
            learner.ended_at = self.now
            return
        unit = self._pool.popleft()
        # As in the real backend: up to one unused round of earlier steps is kept.
        learner.allowed = min(learner.allowed, 1.0) + self.rounds_per_step
        self._initiate(number)
        if self.learning.oldest(number) >= self.max_staleness:
            learner.held = unit
        else:
            self._compute(number, unit)

    def _compute(self, number: int, unit: int) -> None:
        learner = self.learners[number]
        seconds = self.pace.seconds(number, learner.units) + learner.work_seconds
        learner.work_seconds = 0.0
        self._at(self.now + seconds, lambda: self._computed(number, unit))

    def _computed(self, number: int, unit: int) -> None:
        self.learning.update(number, unit)
        self.learners[number].units += 1
        self.unit_ends.append(self.now)
        self._begin(number)

    # Exchanges

    def _initiate(self, number: int) -> None:
        """Go on with the round under way, or begin one where it is allowed."""
        learner = self.learners[number]
        if learner.in_round or not learner.running or learner.allowed < 1.0 or len(self.learners) == 1:
            return
        learner.allowed -= 1.0
        learner.in_round = True
        learner.edges.extend(initiated(self.topology, number, len(self.learners), learner.rounds).items())
        self._next_exchange(number)

    def _next_exchange(self, number: int) -> None:
        learner = self.learners[number]
        if not learner.edges:
            learner.rounds += 1
            learner.in_round = False
            # Later, and not at once: a round without exchanges takes no time, and may be followed by many of them.
            self._at(self.now, lambda: self._initiate(number))
            return
        peer, weight = learner.edges.popleft()
        self.learning.snapshot(number, initiates=True)
        self.learners[peer].asked.append((number, weight))
        self._answer(peer)

    def _answer(self, number: int) -> None:
        learner = self.learners[number]
        if learner.answering or not learner.asked:
            return
        learner.answering = True
        initiator, weight = learner.asked.popleft()
        self.learning.snapshot(number, initiates=False)
        ends = self.link.ends(self.now, initiator, number)
        self._at(ends, lambda: self._exchanged(initiator, number, weight))

    def _exchanged(self, initiator: int, answerer: int, weight: float) -> None:
        self.learning.mix(initiator, answerer, weight)
        self.exchanges += 1
        self.learners[answerer].answering = False
        for number in (initiator, answerer):
            self.learners[number].work_seconds += self.work_seconds
            self._resume(number)
        self._answer(answerer)
        self._next_exchange(initiator)

    def _resume(self, number: int) -> None:
        learner = self.learners[number]
        if learner.held is not None and self.learning.oldest(number) < self.max_staleness:
            unit, learner.held = learner.held, None
            self._compute(number, unit)
