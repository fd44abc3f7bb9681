"""What schemes that mix weights once per step share: snapshot, overlap with the gradient, fold before the update.

    w_i  <-  w_i + sum_j T_ij s_j - s_i - lr g(w_i)        s: the weights at the beginning of the step

The exchange starts in ``begin_step`` and is folded in ``updating``, before the optimizer's step, so that decoupled
weight decay acts on mixed weights. The gradient is that of the learner's own weights before mixing. Since T is doubly
stochastic, the mean over learners moves by the mean gradient alone; only the points at which gradients are taken
differ from synchronous SGD. Sources: arXiv 2112.01433, section 2; arXiv 2110.11199, section III.

With ``mix_moments`` the optimizer's moments are mixed by the same T, in the same message, from the first step at whose
beginning every learner has them for every parameter that is trained: a learner may have skipped its first update, and a
parameter may have had no gradient in it, so they agree on it.
"""

import itertools
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from distributed.backend import State
from distributed.base import GossipBackend
from distributed.gossip.compressed_rounds import CompressedRounds
from distributed.gossip.finite import check_own
from distributed.gossip.moments import flatten_moments, has_all_moments, require_moments
from distributed.gossip.packing import Message, Packing
from distributed.learners.world import World


class LockstepMixing(GossipBackend):
    """One round of mixing per step, on all learners. Subclasses define what is sent and how it is mixed.

    ``compressed`` makes the messages of subclasses that have the option; its metrics and state are the backend's.
    """

    def __init__(self, *, mix_moments: bool, world: World, compressed: CompressedRounds | None = None) -> None:
        super().__init__(world=world)
        self.mix_moments = mix_moments
        self.compressed = compressed
        self.round = 0
        self._packing: Packing | None = None
        self._snapshot: Message = []
        self._with_moments = False
        self._moments_unchecked = mix_moments  # until the optimizer's first step
        self._in_flight = False
        self._started_at = 0.0  # clock reading when the round in flight began

    @property
    def shares(self) -> int:
        """Number of equal parts that a message is cut into."""
        return 1

    @property
    def mixes(self) -> bool:
        """Whether there are other learners to mix with."""
        return self.world.size > 1

    @abstractmethod
    def _start_round(self, snapshot: Message) -> None:
        """Start sending ``snapshot`` and receiving the snapshots of others; returns at once."""

    @abstractmethod
    def _finish_round(self, snapshot: Message) -> Message | None:
        """Wait for the round; return sum_j T_ij s_j - s_i, to be added to the buffers. None: nothing was received."""

    def begin_step(self, local_weight: float, planned_weight: float) -> float:
        self.traffic.steps += 1
        if self.mixes:
            self._pack(with_moments=self._moments_join())
            assert self._packing is not None
            self._packing.take_snapshot(self._snapshot)
            check_own(self._snapshot, self.world.rank)
            self._started_at = time.perf_counter()
            self._start_round(self._snapshot)
            self._in_flight = True
        # Not the loaded weight: a mean of it over learners would make all of them wait for each other in every step.
        return planned_weight

    def _moments_join(self) -> bool:
        """Whether moments are mixed from this step on; asks all learners in each step until they are, usually twice."""
        if not self.mix_moments or self._with_moments:
            return False
        # Asked before the snapshots are sent: the answer would otherwise queue behind them.
        (ready,) = self._sum(float(has_all_moments(self.optimizer)))
        return ready == self.world.size

    def _pack(self, with_moments: bool) -> None:
        """Lay out the message: once at the start, and again when the moments are mixed too."""
        if self._packing is None or with_moments:
            moments = flatten_moments(self.optimizer, self.flat).values() if with_moments else ()
            self._packing = Packing([*self.flat.flat, *itertools.chain(*moments)], self.shares)
            self._snapshot = self._packing.message()
            self._with_moments = with_moments

    @contextmanager
    def updating(self, apply: bool) -> Iterator[None]:
        if self._in_flight:
            with self.traffic.waiting():
                difference = self._finish_round(self._snapshot)
            self.traffic.exchanged_since(self._started_at)
            if difference is not None:
                self._fold(difference)
            self._in_flight = False
            self.traffic.rounds += 1
        self.round += 1
        yield
        if apply and self._moments_unchecked:
            require_moments(self.optimizer)
            self._moments_unchecked = False

    @torch.no_grad()
    def _fold(self, difference: Message) -> None:
        assert self._packing is not None
        self._packing.add(difference)

    def metrics(self) -> dict[str, float]:
        figures = super().metrics()
        return figures if self.compressed is None else figures | self.compressed.figures(figures["comm/rounds"])

    def state_dict(self) -> State:
        replicas = {} if self.compressed is None else {"replicas": self.compressed.state_dict()}
        return {"round": self.round, **replicas}

    def load_state_dict(self, states: Sequence[Mapping[str, Any]], rank: int, world_size: int) -> None:
        self.round = max(state["round"] for state in states)
        if self.compressed is not None:
            self.compressed.load_state_dict(states, world_size)
