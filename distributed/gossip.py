"""Synchronous decentralised SGD: every learner mixes its weights with its neighbours' while it computes its gradient.

    w_i  <-  w_i + sum_j T_ij (s_j - s_i) - lr g(w_i)        s: the weights at the beginning of the step

The gradient is that of the learner's own weights before mixing. Since T is doubly stochastic, the mean over learners
moves by the mean gradient alone; only the points at which gradients are taken differ from synchronous SGD.
Source: DPSGD in arXiv 2112.01433, section 2; fixed ring in arXiv 2110.11199, section III.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from distributed.backend import State
from distributed.base import GossipBackend
from distributed.launch import World
from distributed.topology import TOPOLOGIES, TopologyName
from distributed.transport import NeighbourExchange


def weighted_difference(own: Tensor, received: Sequence[tuple[float, Tensor]]) -> Tensor:
    """sum_j T_ij (s_j - s_i), computed in the first of the received buffers; all of these are overwritten.

    As differences: learners that agree stay bitwise where they are, and what one end of an edge gains is bitwise what
    the other end loses.

    Args:
        own: s_i, shape (elements,).
        received: (T_ij, s_j) of each neighbour, at least one.
    """
    (weight, difference), *others = received
    difference.sub_(own).mul_(weight)
    for weight, snapshot in others:
        difference.add_(snapshot.sub_(own), alpha=weight)
    return difference


class DecentralisedSgd(GossipBackend):
    """DPSGD on a topology. One round per step; the messages travel during forward and backward."""

    def __init__(self, *, topology: TopologyName, world: World) -> None:
        super().__init__(world=world)
        self.topology = TOPOLOGIES[topology]()
        self.round = 0
        self._exchange: NeighbourExchange | None = None
        self._row: dict[int, float] = {}  # of the round in flight, without this learner

    def begin_step(self, local_weight: float) -> float:
        # The small all-reduce first: behind the snapshots it would wait for them.
        divisor = super().begin_step(local_weight)
        if self.world.size > 1:
            self._start_round(self.world.rank, self.world.size)
        return divisor

    def _start_round(self, rank: int, size: int) -> None:
        self._row = {j: weight for j, weight in self.topology.row(rank, size, self.round).items() if j != rank}
        recipients = [j for j in self.topology.column(rank, size, self.round) if j != rank]
        self.exchange.start(self._row.keys(), recipients)

    @property
    def exchange(self) -> NeighbourExchange:
        """The messages; their group of its own, so that they never mix with collectives, is made on first use."""
        if self._exchange is None:
            group = self.world.new_group("gossip", range(self.world.size))
            self._exchange = NeighbourExchange(group=group, buffers=self.flat.flat, traffic=self.traffic)
        return self._exchange

    @contextmanager
    def updating(self, apply: bool) -> Iterator[None]:
        if self._row:
            with self.traffic.waiting():
                received = self.exchange.wait()
            self._fold(received)
            self.traffic.rounds += 1
        self.round += 1
        yield

    @torch.no_grad()
    def _fold(self, received: Mapping[int, list[Tensor]]) -> None:
        for index, (weights, own) in enumerate(zip(self.flat.flat, self.exchange.snapshot, strict=True)):
            neighbours = [(weight, received[learner][index]) for learner, weight in self._row.items()]
            weights.add_(weighted_difference(own, neighbours).to(weights.device))
        self._row = {}

    def drain(self) -> None:
        if self._exchange is not None:
            self._exchange.wait()

    def close(self) -> None:
        self._exchange = None

    def state_dict(self) -> State:
        return {"round": self.round}

    def load_state_dict(self, states: Sequence[Mapping[str, Any]], rank: int, world_size: int) -> None:
        self.round = max(state["round"] for state in states)
