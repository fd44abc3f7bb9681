"""Asynchronous decentralised SGD: learners mix weights in the background, and no learner waits for a slow one.

    w_i  <-  w_i + a (s_j - s_i)   whenever an exchange with j has come in     s: weights when its snapshot was taken
    w_i  <-  w_i - lr g(v_i)                                                   v_i: the weights that the forward used

Each learner takes units of the epoch from a common pool, as fast as it can, and updates its own weights. A thread
initiates exchanges with the neighbours that the topology names for its own gossip round; another answers whoever asks.
Neither round depends on anybody's training step.
Source: ADPSGD, Lian et al. 2018 (arXiv 1710.06952); fixed and random rings for speech, arXiv 2110.11199, section III.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import torch

from distributed.backend import State
from distributed.base import GossipBackend
from distributed.gossip.codes import Compression
from distributed.gossip.compressed_pairs import ThreadBuffers
from distributed.gossip.diagnostics import staleness_figures
from distributed.gossip.finite import NonFiniteWeightsError
from distributed.gossip.moments import SQUARES, flatten_moments, has_all_moments, require_moments
from distributed.gossip.pairwise import Background, ExchangeError, Pairwise
from distributed.gossip.pending import PendingMixing
from distributed.gossip.replicas import checked_code
from distributed.gossip.topology import Topology, TopologyName, make_topology
from distributed.learners.launch import World
from distributed.learners.traffic import Traffic
from distributed.ranges import Count, Natural, Positive, Share

_LOOK_SECONDS = 1.0  # how often a wait for a request checks whether the learner that should ask is lost
_END_SECONDS = 5.0  # longest wait for a thread to end; one that is stuck with a lost learner never does


def initiated(topology: Topology, rank: int, size: int, round: int) -> dict[int, float]:
    """Whom learner ``rank`` asks for an exchange in a round, with what weight a.

    Every edge of T is initiated by the learner from which the other is less than half of the circle away, so that each
    has its share; across the very middle by both, with half the weight each: rounds of two learners are out of step, and
    two exchanges with the whole weight, of the same pair of weights, would go past the mean and on from there. An edge of
    a matrix that is not symmetric counts with the mean of its two weights.
    """
    row, column = topology.row(rank, size, round), topology.column(rank, size, round)
    edges: dict[int, float] = {}
    for peer in sorted({*row, *column} - {rank}):
        weight = (row.get(peer, 0.0) + column.get(peer, 0.0)) / 2
        distance = (peer - rank) % size
        if 2 * distance <= size:
            edges[peer] = weight / 2 if 2 * distance == size else weight
    return edges


class AsynchronousGossip(GossipBackend):
    """ADPSGD on a topology.

    Args:
        rounds_per_step: gossip rounds that a learner initiates per own step, at most; it always answers.
        max_staleness: own updates between an exchange's snapshot and its folding in, at most: where the network is
            slower than that, steps wait for it.
        mix_moments: exchange the optimizer's moments with the weights, from the first mark on at which all learners have
            them. Unlike weights they are not conserved to rounding: squares are kept from falling below 0.
        compression, compression_rate, consensus_step: of the messages; see distributed/gossip/{codes,replicas}.py.
    """

    lockstep: ClassVar[bool] = False

    def __init__(
        self,
        *,
        topology: TopologyName,
        rounds_per_step: Positive,
        max_staleness: Count,
        mix_moments: bool,
        compression: Compression,
        compression_rate: Count,
        consensus_step: Share | None,
        seed: Natural,
        world: World,
    ) -> None:
        super().__init__(world=world)
        self.topology = make_topology(topology, seed)
        self.rounds_per_step = rounds_per_step
        self.max_staleness = max_staleness
        self.mix_moments = mix_moments
        self.round = 0  # this learner's own gossip round
        self._mixing: PendingMixing | None = None
        self._with_moments = False
        self._moments_unchecked = mix_moments  # until the optimizer's first step
        code = checked_code(compression, compression_rate, mix_moments)
        self._buffers = ThreadBuffers(code, consensus_step, world.rank)
        self._pairwise: Pairwise | None = None
        self._threads: list[Background] = []
        self._changed = threading.Condition()  # guards what follows
        self._traffic = Traffic()  # counted by the threads; self.traffic belongs to the training thread
        self._running = False  # True from a step's beginning to the next drain, while rounds may be initiated
        self._ended = False
        self._told_to_end = False  # whether the learner before this one has said that its work is done
        self._allowed = 0.0  # number of rounds that may still be initiated
        self._in_round = False
        self._initiated = torch.zeros(world.size, dtype=torch.int64)  # number of exchanges begun here with each learner
        self._answered = 0

    # The start

    def synchronise(self, resumed: bool, rehearse: Callable[[], None] | None = None) -> None:
        super().synchronise(resumed, rehearse)
        self._join_moments()
        if self.world.size > 1 and self._pairwise is None:
            group = self.world.new_group("asynchronous-gossip", range(self.world.size))
            self._pairwise = Pairwise(group=group, mixing=self.mixing, on_exchange=self._count)
            self._threads = [
                Background("gossip-initiates", self._initiator(), self._wake),
                Background("gossip-answers", self._answerer(), self._wake),
            ]
            for thread in self._threads:
                thread.start()

    @property
    def mixing(self) -> PendingMixing:
        """The weights and what waits to be folded into them, made on first use."""
        if self._mixing is None:
            self._mixing = PendingMixing(self.flat.flat)
        return self._mixing

    @property
    def pairwise(self) -> Pairwise:
        """The exchanges; there are some once learners are synchronised."""
        if self._pairwise is None:
            raise RuntimeError("backend.synchronise(...) comes first")
        return self._pairwise

    # The step

    def begin_step(self, local_weight: float, planned_weight: float) -> float:
        self.traffic.steps += 1
        with self._changed:
            self._running = True
            # Up to one unused round of earlier steps is kept: rounds_per_step=1.5 makes 1 and 2 rounds in turn.
            self._allowed = min(self._allowed, 1.0) + self.rounds_per_step
            self._changed.notify_all()
        with self.traffic.waiting():
            self.mixing.wait_until_younger(self.max_staleness, self._failed)
        self.world.check()
        self._raise_failure()
        if self._told_to_end:
            before = (self.world.rank - 1) % self.world.size
            raise ExchangeError(f"learner {before} has ended while this one has more to do; its log says why")
        return planned_weight

    @contextmanager
    def updating(self, apply: bool) -> Iterator[None]:
        with self.mixing.updating() as waited_seconds:
            self.traffic.waited_since(time.perf_counter() - waited_seconds)
            yield
            if apply and self._moments_unchecked:
                require_moments(self.optimizer)
                self._moments_unchecked = False

    # The threads

    def _initiator(self) -> Callable[[], bool]:
        buffers = self._buffers.initiates

        def one_round() -> bool:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or (self._running and self._allowed >= 1.0))
                if self._ended:
                    return False
                self._allowed -= 1.0
                self._in_round = True
            for peer, weight in initiated(self.topology, self.world.rank, self.world.size, self.round).items():
                with self._changed:
                    self._initiated[peer] += 1
                self.pairwise.initiate(peer, weight, buffers)
            with self._changed:
                self.round += 1
                self._traffic.rounds += 1
                self._in_round = False
                self._changed.notify_all()
            return True

        return one_round

    def _answerer(self) -> Callable[[], bool]:
        buffers = self._buffers.answers

        def one_answer() -> bool:
            self._told_to_end = not self.pairwise.answer(buffers)
            return not self._told_to_end

        return one_answer

    def _count(self, *, payload_bytes: int, initiated: bool, began_at: float) -> None:
        self.traffic.exchanged_since(began_at)
        with self._changed:
            self._traffic.count(payload_bytes, payload_bytes)
            if not initiated:
                self._answered += 1
                self._changed.notify_all()

    def _wake(self) -> None:
        """Called when a thread has ended with an error: wakes the threads that wait, which then check for it."""
        self.mixing.wake()
        with self._changed:
            self._changed.notify_all()

    def _failed(self) -> bool:
        return any(thread.error is not None for thread in self._threads)

    def _raise_failure(self) -> None:
        for thread in self._threads:
            if isinstance(thread.error, NonFiniteWeightsError):
                raise thread.error
            if thread.error is not None:
                raise ExchangeError(str(thread.error)) from thread.error

    # The end, and what must not be disturbed

    def drain(self) -> None:
        """Collective: afterwards no learner has anything in flight, until one of them begins its next step."""
        if self.world.size == 1 or not self._threads:
            return
        with self._changed:
            self._running = False
            self._changed.wait_for(lambda: self._failed() or not self._in_round)
            initiated_by_all = self._initiated.clone()
        self._raise_failure()
        # From here on no learner initiates, and the sum says how often each learner has been asked.
        asked = int(self.world.all_reduce_sum(initiated_by_all)[self.world.rank])
        with self._changed:
            # A lost learner sends no request, so that nothing wakes the thread that would answer it.
            while not self._changed.wait_for(lambda: self._failed() or self._answered >= asked, _LOOK_SECONDS):
                self.world.check()
        if self._answered < asked:  # otherwise a learner may be gone because its work is done
            self._raise_failure()
        self.mixing.fold()
        self._join_moments()

    def _join_moments(self) -> None:
        """Start to mix moments once all learners have them; called with all together and nothing in flight."""
        if self.world.size == 1 or not self.mix_moments or self._with_moments:
            return
        if self.world.any(not has_all_moments(self.optimizer)):
            return
        moments = flatten_moments(self.optimizer, self.flat)
        squares = [buffer for name, buffers in moments.items() if name in SQUARES for buffer in buffers]
        self.mixing.repack([*self.flat.flat, *itertools.chain(*moments.values())], squares)
        self._with_moments = True
        self.world.barrier()  # no learner may send a request before all have the new layout of messages

    @contextmanager
    def consensus(self) -> Iterator[dict[str, float]]:
        with super().consensus() as disagreement:
            yield disagreement
        self.world.barrier()  # otherwise a fast learner's next step could ask one that still holds the mean

    def close(self) -> None:
        if not self._threads:
            return
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        # A learner that ends on the way leaves the threads alone, its own and the next one's: the others meet a lost
        # connection, and say so. One that no longer answered, without an error, would let them wait. Where a learner is
        # lost the threads may wait for it.
        watch = self.world.watch
        lost = watch is not None and watch.liveness.loss is not None
        if not self._running and not self._failed() and not lost:
            self._end_neighbour()
            for thread in self._threads:
                thread.join(_END_SECONDS)
        self._threads = []

    def _end_neighbour(self) -> None:
        """End the answering thread of the next learner, as no learner can send a message to itself."""
        with suppress(RuntimeError):  # that learner is lost, which others report
            self.pairwise.end((self.world.rank + 1) % self.world.size)

    def metrics(self) -> dict[str, float]:
        with self._changed:
            self.traffic.count(self._traffic.bytes_sent, self._traffic.bytes_received)
            self.traffic.rounds += self._traffic.rounds
            self._traffic = Traffic()
        figures = self.traffic.take() | staleness_figures(self.mixing.take_staleness())
        return figures | self._buffers.figures(figures["comm/rounds"])

    def state_dict(self) -> State:
        return {"round": self.round, **self._buffers.state_dict()}

    def load_state_dict(self, states: Sequence[Mapping[str, Any]], rank: int, world_size: int) -> None:
        rounds = [state["round"] for state in states]
        self.round = rounds[rank] if len(rounds) == world_size else max(rounds)
        self._buffers.load_state_dict(states, rank, world_size)
