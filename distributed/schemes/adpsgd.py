"""Asynchronous decentralised SGD: learners mix weights in the background, and no learner waits for a slow one.

    w_i  <-  w_i + a (s_j - s_i)   whenever an exchange with j has come in     s: weights when its snapshot was taken
    w_i  <-  w_i - lr g(v_i)                                                   v_i: the weights that the forward used

Each learner takes units of the epoch from a common pool, as fast as it can, and updates its own weights. A thread
initiates exchanges with the neighbours that the topology names for its own gossip round; another answers whoever asks.
Neither round depends on anybody's training step.
Source: ADPSGD, Lian et al. 2018 (arXiv 1710.06952); fixed and random rings for speech, arXiv 2110.11199, section III.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor

from distributed.backend import State
from distributed.base import GossipBackend
from distributed.errors import UsageError
from distributed.gossip.background_rounds import BackgroundRounds
from distributed.gossip.codes import Compression
from distributed.gossip.compressed_pairs import ThreadBuffers
from distributed.gossip.continuous_momentum import ONLY_WEIGHTS, flow_of
from distributed.gossip.diagnostics import staleness_figures
from distributed.gossip.moments import SQUARES, flatten_moments, has_all_moments, require_moments
from distributed.gossip.pending import PendingMixing
from distributed.gossip.replicas import checked_code
from distributed.gossip.topology import TopologyName, make_topology
from distributed.learners.world import World
from distributed.ranges import Count, Natural, Positive, Share


class AsynchronousGossip(GossipBackend):
    """ADPSGD on a topology.

    Args:
        rounds_per_step: gossip rounds that a learner initiates per own step, at most; it always answers.
        max_staleness: own updates between an exchange's snapshot and its folding in, at most: where the network is
            slower than that, steps wait for it.
        mix_moments: exchange the optimizer's moments with the weights, from the first mark on at which all learners have
            them. Unlike weights they are not conserved to rounding: squares are kept from falling below 0.
        continuous_momentum: see distributed/gossip/continuous_momentum.py.
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
        continuous_momentum: bool,
        compression: Compression,
        compression_rate: Count,
        consensus_step: Share | None,
        seed: Natural,
        world: World,
    ) -> None:
        super().__init__(world=world)
        self.max_staleness = max_staleness
        self.mix_moments = mix_moments
        self.continuous_momentum = continuous_momentum
        if continuous_momentum and (mix_moments or compression != "none"):
            raise UsageError(ONLY_WEIGHTS)
        self._mixing: PendingMixing | None = None
        self._with_moments = False
        self._moments_unchecked = mix_moments  # until the optimizer's first step
        peers, code = self._peers(), checked_code(compression, compression_rate, mix_moments)
        self.rounds = BackgroundRounds(
            world=world,
            peers=peers,
            topology=make_topology(topology, seed),
            rounds_per_step=rounds_per_step,
            buffers=ThreadBuffers(code, consensus_step, list(peers).index(world.rank)),
        )

    def _peers(self) -> Sequence[int]:
        """Ranks of the learners that this one gossips with, itself among them."""
        return range(self.world.size)

    @property
    def round(self) -> int:
        """The number of this learner's own gossip round."""
        return self.rounds.number

    @property
    def mixes(self) -> bool:
        """Whether there are other learners to mix with."""
        return len(self.rounds.peers) > 1

    # The start

    def synchronise(self, resumed: bool, rehearse: Callable[[], None] | None = None) -> None:
        super().synchronise(resumed, rehearse)
        self._join_moments()
        self.rounds.start(self.mixing)

    @property
    def mixing(self) -> PendingMixing:
        """The weights and what waits to be folded into them, made on first use."""
        if self._mixing is None:
            with_momentum = self.continuous_momentum and self.mixes
            rounds = self.rounds
            flow = flow_of(rounds.topology, len(rounds.peers), rounds.rounds_per_step) if with_momentum else None
            self._mixing = PendingMixing(self._mixed(), flow)
        return self._mixing

    def _mixed(self) -> Sequence[Tensor]:
        """The weights that this learner exchanges, as buffers of shape (elements,)."""
        return self.flat.flat

    # The step

    def begin_step(self, local_weight: float, planned_weight: float) -> float:
        self.traffic.steps += 1
        self.rounds.allow()
        with self.traffic.waiting():
            self.mixing.wait_until_younger(self.max_staleness, self.rounds.hopeless)
        self.world.check()
        self.rounds.check()
        return planned_weight

    @contextmanager
    def updating(self, apply: bool) -> Iterator[None]:
        with self.mixing.updating(advanced=self._advanced()) as waited_seconds:
            self.traffic.waited_since(time.perf_counter() - waited_seconds)
            yield
            if apply and self._moments_unchecked:
                require_moments(self.optimizer)
                self._moments_unchecked = False

    def _advanced(self) -> bool:
        """Whether what precedes an update is done already; here it is done in the same pass."""
        return False

    # The end, and what must not be disturbed

    def drain(self) -> None:
        """Collective: afterwards no learner has anything in flight, until one of them begins its next step."""
        if not self.rounds.threads:
            return
        self.rounds.drain()
        self.mixing.fold()
        self._join_moments()

    def _join_moments(self) -> None:
        """Start to mix moments once all learners have them; called with all together and nothing in flight."""
        if not self.mixes or not self.mix_moments or self._with_moments:
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
        self.rounds.close()

    def metrics(self) -> dict[str, float]:
        self.rounds.take_traffic(self.traffic)
        figures = self.traffic.take() | staleness_figures(self.mixing.take_staleness())
        return figures | self.rounds.buffers.figures(figures["comm/rounds"])

    def state_dict(self) -> State:
        offsets = self.mixing.state_dict() if self.continuous_momentum else {}
        return {"round": self.round, **offsets, **self.rounds.buffers.state_dict()}

    def load_state_dict(self, states: Sequence[Mapping[str, Any]], rank: int, world_size: int) -> None:
        rounds, place, peers = [state["round"] for state in states], self.rounds.place, self.rounds.peers
        same = self._goes_on_from(states, world_size)
        self.rounds.number = rounds[rank] if same else max(rounds)
        if self.continuous_momentum and same:  # among others the momentum begins anew
            self.mixing.load_state_dict(states[rank])
        self.rounds.buffers.load_state_dict([states[peer] for peer in peers] if same else [], place, len(peers))

    def _goes_on_from(self, states: Sequence[Mapping[str, Any]], world_size: int) -> bool:
        """Whether a learner's own state is among ``states``, of learners that exchanged as they do now."""
        return len(states) == world_size
