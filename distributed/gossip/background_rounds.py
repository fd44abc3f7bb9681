"""The rounds of asynchronous gossip of one learner, in the background: one thread initiates exchanges, one answers them.

Neither waits for this learner's training, and the answering thread waits for nobody but who asks it, so that no cycle of
waits can arise. Learners that gossip with each other are ``peers``: all of a run, or one of each group.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch

from distributed.gossip.compressed_pairs import ThreadBuffers
from distributed.gossip.finite import NonFiniteWeightsError
from distributed.gossip.initiated import initiated
from distributed.gossip.pairwise import Background, ExchangeError, Pairwise
from distributed.gossip.pending import PendingMixing
from distributed.gossip.topology import Topology
from distributed.learners.traffic import Traffic
from distributed.learners.waiting import LOOK_SECONDS
from distributed.learners.world import World

_END_SECONDS = 5.0  # longest wait for a thread to end; one that is stuck with a lost learner never does


class BackgroundRounds:
    """Initiates at most ``rounds_per_step`` rounds per own step, and answers any number of exchanges.

    Args:
        peers: ranks of the learners that gossip with each other, this one among them; places of the topology, in order.
    """

    def __init__(
        self,
        *,
        world: World,
        peers: Sequence[int],
        topology: Topology,
        rounds_per_step: float,
        buffers: ThreadBuffers,
    ) -> None:
        self.world = world
        self.peers = list(peers)
        self.place = self.peers.index(world.rank)
        self.topology = topology
        self.rounds_per_step = rounds_per_step
        self.buffers = buffers
        self.number = 0  # of this learner's own round
        self.threads: list[Background] = []
        self._pairwise: Pairwise | None = None
        self._wake_training: Callable[[], None] = lambda: None
        self._changed = threading.Condition()  # guards what follows
        self._traffic = Traffic()  # counted by the threads; the world's belongs to the training thread
        self._running = False  # True from a step's beginning to the next drain, while rounds may be initiated
        self._ended = False
        self._peer_ended = False  # whether the peer before this one has said that it ends
        self._allowed = 0.0  # number of rounds that may still be initiated
        self._in_round = False
        self._initiated = torch.zeros(world.size, dtype=torch.int64)  # number of exchanges begun here, by rank
        self._answered = 0

    def start(self, mixing: PendingMixing) -> None:
        """Make the group of the peers and start both threads, once; nothing without other peers."""
        if len(self.peers) == 1 or self._pairwise is not None:
            return
        self._pairwise = Pairwise(
            group=self.world.new_group(f"asynchronous-gossip-{self.peers[0]}", self.peers),
            mixing=mixing,
            on_exchange=self._count,
            ranks=self.peers,
        )
        self._wake_training = mixing.wake
        self.threads = [
            Background("gossip-initiates", self._initiator(self._pairwise), self._wake),
            Background("gossip-answers", self._answerer(self._pairwise), self._wake),
        ]
        for thread in self.threads:
            thread.start()

    def allow(self) -> None:
        """A step begins: that many more rounds may be initiated."""
        with self._changed:
            self._running = True
            # Up to one unused round of earlier steps is kept: rounds_per_step=1.5 makes 1 and 2 rounds in turn.
            self._allowed = min(self._allowed, 1.0) + self.rounds_per_step
            self._changed.notify_all()

    def check(self) -> None:
        """Raise what has ended a thread; ExchangeError where another learner has ended while this one has more to do."""
        self._raise_failure()
        if self._peer_ended:
            before = self.peers[self.place - 1]
            raise ExchangeError(f"learner {before} has ended while this one has more to do; its log says why")

    # The threads

    def _initiator(self, pairwise: Pairwise) -> Callable[[], bool]:
        def one_round() -> bool:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or (self._running and self._allowed >= 1.0))
                if self._ended:
                    return False
                self._allowed -= 1.0
                self._in_round = True
            for peer, weight in initiated(self.topology, self.place, len(self.peers), self.number).items():
                with self._changed:
                    self._initiated[self.peers[peer]] += 1
                pairwise.initiate(peer, weight, self.buffers.initiates)
            with self._changed:
                self.number += 1
                self._traffic.rounds += 1
                self._in_round = False
                self._changed.notify_all()
            return True

        return one_round

    def _answerer(self, pairwise: Pairwise) -> Callable[[], bool]:
        def one_answer() -> bool:
            self._peer_ended = not pairwise.answer(self.buffers.answers)
            return not self._peer_ended

        return one_answer

    def _count(self, *, payload_bytes: int, initiated: bool, began_at: float) -> None:
        self.world.traffic.exchanged_since(began_at)
        with self._changed:
            self._traffic.count(payload_bytes, payload_bytes)
            if not initiated:
                self._answered += 1
                self._changed.notify_all()

    def _wake(self) -> None:
        """Called when a thread has ended with an error: wakes the threads that wait, which then check for it."""
        self._wake_training()
        with self._changed:
            self._changed.notify_all()

    def failed(self) -> bool:
        """Whether an error has ended a thread."""
        return any(thread.error is not None for thread in self.threads)

    def hopeless(self) -> bool:
        """Whether it is in vain to wait for the threads: an error has ended one, or one may wait for a learner that is lost."""
        return self.failed() or self.world.lost

    def _raise_failure(self) -> None:
        for thread in self.threads:
            if isinstance(thread.error, NonFiniteWeightsError):
                raise thread.error
            if thread.error is not None:
                raise ExchangeError(str(thread.error)) from thread.error

    # Where nothing may be in flight

    def drain(self) -> None:
        """Collective over all learners: returns when nothing is in flight here, nor will be before the next step."""
        with self._changed:
            self._running = False
            # A thread may wait for a lost learner, and a lost learner sends no request: nothing then wakes this one.
            while not self._changed.wait_for(lambda: self.failed() or not self._in_round, LOOK_SECONDS):
                self.world.check()
            initiated_by_all = self._initiated.clone()
        self._raise_failure()
        # From here on no learner initiates, and the sum says how often each learner has been asked.
        asked = int(self.world.all_reduce_sum(initiated_by_all)[self.world.rank])
        with self._changed:
            while not self._changed.wait_for(lambda: self.failed() or self._answered >= asked, LOOK_SECONDS):
                self.world.check()
        if self._answered < asked:  # otherwise a learner may be gone because its work is done
            self._raise_failure()

    def close(self) -> None:
        """End the threads; safe to call twice and after an error."""
        if not self.threads:
            return
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        # A learner that ends on the way leaves the threads alone, its own and the next one's: the others meet a lost
        # connection, and say so. One that no longer answered, without an error, would let them wait. Where a learner is
        # lost the threads may wait for it.
        if not self._running and not self.hopeless():
            self._end_next()
            for thread in self.threads:
                thread.join(_END_SECONDS)
        self.threads = []

    def _end_next(self) -> None:
        """End the answering thread of the next peer, as no learner can send a message to itself."""
        assert self._pairwise is not None
        with suppress(RuntimeError):  # that learner is lost, which others report
            self._pairwise.end((self.place + 1) % len(self.peers))

    def take_traffic(self, into: Traffic) -> None:
        """Add what the threads have sent and received since the last call."""
        with self._changed:
            into.count(self._traffic.bytes_sent, self._traffic.bytes_received)
            into.rounds += self._traffic.rounds
            self._traffic = Traffic()
