"""Steps of a scheme on a cluster, with the computation of each learner drawn from a distribution: how long, how stale.

Schemes in lockstep are a recursion over steps, asynchronous gossip is the event queue of distributed/simulate/events.py
without weights. Simulated times are what a cluster would give whose links, paces and constants are those given.
"""

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass

import torch

from distributed.gossip.codes import Code
from distributed.gossip.pending import PendingMixing
from distributed.gossip.topology import Topology
from distributed.simulate.cluster import Cluster, SharedLinks
from distributed.simulate.events import Events
from distributed.simulate.model_size import ModelSize
from distributed.simulate.pace import Pace
from distributed.simulate.timed import StepStart, Timed, message_bytes


@dataclass(frozen=True, slots=True)
class Timing:
    """What a simulation has shown. Per step: a step is one unit of each learner, or as many units of a pool."""

    step_seconds: float
    tail_seconds: float  # from when the pool is empty to the end of the last learner; 0 in lockstep
    waited_seconds: float  # per step, the mean over learners: neither computing nor working for the scheme
    bytes_sent: float  # per step and learner
    staleness: Counter[int]  # number of exchanges by the receiving learner's own updates
    units: list[int]  # by learner

    @property
    def staleness_mean(self) -> float:
        """In own updates; 0 in lockstep, where gradient and mixing begin with the same weights."""
        total = sum(self.staleness.values())
        return sum(age * number for age, number in self.staleness.items()) / total if total else 0.0

    def epoch_seconds(self, units: int, learners: int) -> float:
        """The time of an epoch of so many units."""
        return units / learners * self.step_seconds + self.tail_seconds


def time_lockstep(
    scheme: Timed, cluster: Cluster, model: ModelSize, pace: Pace, *, steps: int, work_seconds: float
) -> Timing:
    """Time ``steps`` steps; ``work_seconds``: of the scheme itself, per step and learner."""
    learners = cluster.learners
    begins, busy = [0.0] * learners, 0.0
    for step in range(steps):
        computes = [pace.seconds(learner, step) for learner in range(learners)]
        begins = scheme.ends(cluster, model, StepStart(begins, computes, work_seconds, step))
        busy += sum(computes) / learners + work_seconds
    seconds, sent = max(begins) / steps, scheme.bytes_sent(cluster, model)
    return Timing(seconds, 0.0, seconds - busy / steps, sent, Counter(), [steps] * learners)


@dataclass(frozen=True, slots=True)
class Gossip:
    """``adpsgd``; the keys of its configuration."""

    topology: Topology
    rounds_per_step: float
    max_staleness: int
    code: Code | None = None


class Ages:
    """Counts the staleness of exchanges by the real backend's own class, on a weight that stands for all of them."""

    def __init__(self, learners: int) -> None:
        self.mixing = [PendingMixing([torch.zeros(1)]) for _ in range(learners)]
        self._entered: dict[tuple[int, bool], int] = {}

    def update(self, learner: int, unit: int) -> None:
        """Fold in what has come."""
        with self.mixing[learner].updating():
            pass

    def snapshot(self, learner: int, initiates: bool) -> None:
        """Enter an exchange."""
        self._entered[learner, initiates] = self.mixing[learner].snapshot([torch.empty(1)])

    def mix(self, initiator: int, answerer: int, weight: float) -> None:
        """End an exchange at both ends."""
        for learner, initiates in ((initiator, True), (answerer, False)):
            self.mixing[learner].add([torch.zeros(1)], weight, self._entered.pop((learner, initiates)))

    def oldest(self, learner: int) -> int:
        """Age of the oldest exchange in flight."""
        return self.mixing[learner].oldest

    def take_staleness(self) -> Counter[int]:
        """Number of exchanges folded in, by staleness."""
        return sum((mixing.take_staleness() for mixing in self.mixing), Counter())


def time_asynchronous(
    gossip: Gossip, cluster: Cluster, model: ModelSize, pace: Pace, *, steps: int, work_seconds: float
) -> Timing:
    """Time a pool of ``steps`` units per learner; ``work_seconds``: of an exchange, at each of its ends."""
    learners, learning, nbytes = cluster.learners, Ages(cluster.learners), message_bytes(model, gossip.code)
    events = Events(
        learners=learners,
        pace=pace,
        link=SharedLinks(cluster, nbytes),
        topology=gossip.topology,
        rounds_per_step=gossip.rounds_per_step,
        max_staleness=gossip.max_staleness,
        learning=learning,
        work_seconds=work_seconds,
    )
    events.run(range(learners * steps))
    ended = [each.ended_at for each in events.learners]
    in_time = bisect_right(events.unit_ends, min(ended))
    busy = sum(pace.seconds(number, unit) for number, each in enumerate(events.learners) for unit in range(each.units))
    waited = (sum(ended) - busy - 2 * events.exchanges * work_seconds) / (learners * steps)
    return Timing(
        step_seconds=min(ended) / in_time * learners,
        tail_seconds=max(ended) - min(ended),
        waited_seconds=max(waited, 0.0),
        bytes_sent=2 * events.exchanges * nbytes / (learners * steps),
        staleness=learning.take_staleness(),
        units=[each.units for each in events.learners],
    )
