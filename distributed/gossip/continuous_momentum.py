"""Continuous local momentum: gossip mixes faster on sparse topologies, without more messages.

Every learner keeps a second copy x~ of its weights x. Between two events of a learner, dt of its own steps apart, the
two flow into each other; both take its updates; what an exchange with j brings, d = x_j - x_i, counts more in x~:

    x, x~  <-  exp(dt [[-eta, eta], [eta, -eta]]) (x, x~)         eta   =  1 / (2 sqrt(chi_1 chi_2))
    x  +=  a d       x~  +=  a sqrt(chi_1 / chi_2) d              chi_1 =  1 / lambda_2 of the Laplacian of the exchanges
    x  -=  lr g      x~  -=  lr g                                 chi_2 =  largest half of a resistance between neighbours

so that disagreement falls with sqrt(chi_1 chi_2) where it falls with chi_1 without (a ring of L: L, once L^2). The theory
has exchanges take effect at once; here they are a step or so old, under which a copy that is pulled so hard overshoots:
simulated learners on a ring of 64 drifted apart. So what an exchange counts more in x~ is a third of what the theory has
(``SHARE``), with which learners stay closer than without (tests/numerics/test_continuous_momentum.py).

The copy is kept as y = x~ - x, which updates leave alone: with c = (1 - exp(-2 eta dt)) / 2 the flow is x += c y and
y *= 1 - 2c, and the sum of x and x~ is conserved by it. dt is 1: the flow and what has come in take effect at updates.
Source: A2CiD2, Nabli, Belilovsky and Oyallon 2023, arXiv 2306.08289, Algorithm 1 and Proposition 3.6.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from distributed.gossip.initiated import mixing_rates
from distributed.gossip.packing import Message, Packing
from distributed.gossip.topology import Topology

SHARE = 1 / 3  # of sqrt(chi_1 / chi_2) - 1, for exchanges that are about a step old
ONLY_WEIGHTS = (
    "backend.continuous_momentum=true mixes whole weights and nothing else; set backend.mix_moments=false and "
    "backend.compression=none, or continuous_momentum=false"
)


class Flow(NamedTuple):
    """The constants of the momentum."""

    eta: float  # how fast x and x~ flow into each other, per step
    gain: float  # how many times more an exchange counts in x~ than in x, at least 1


def flow_of(topology: Topology, learners: int, rounds_per_step: float) -> Flow:
    """The constants for exchanges on a topology, of at least two learners, at the rate of ``rounds_per_step``."""
    chi_1, chi_2 = graph_constants(mixing_rates(topology, learners) * rounds_per_step)
    return Flow(1 / (2 * math.sqrt(chi_1 * chi_2)), 1 + SHARE * (math.sqrt(chi_1 / chi_2) - 1))


def graph_constants(rates_LL: Tensor) -> tuple[float, float]:
    """chi_1 and chi_2 of a connected graph, from the rate of exchanges between each two learners (symmetric)."""
    laplacian_LL = torch.diag(rates_LL.sum(1)) - rates_LL
    chi_1 = 1 / float(torch.linalg.eigvalsh(laplacian_LL)[1])
    inverse_LL = torch.linalg.pinv(laplacian_LL, hermitian=True)
    own_L = inverse_LL.diagonal()
    resistances_LL = own_L[:, None] + own_L[None, :] - 2 * inverse_LL
    return chi_1, float(resistances_LL[rates_LL > 0].max()) / 2


class ContinuousMomentum:
    """The difference y = x~ - x of one learner's weights, which lie in flat buffers."""

    def __init__(self, weights: Sequence[Tensor], flow: Flow) -> None:
        self.flow = flow
        self.offsets = [torch.zeros_like(buffer) for buffer in weights]
        self._weights = weights
        self._packing = Packing(self.offsets)

    @torch.no_grad()
    def elapse(self) -> None:
        """One own step has passed: x and x~ flow into each other."""
        gone = (1 - math.exp(-2 * self.flow.eta)) / 2
        for weights, offset in zip(self._weights, self.offsets, strict=True):
            weights.add_(offset, alpha=gone)
            offset.mul_(1 - 2 * gone)

    @torch.no_grad()
    def exchanged(self, differences: Message, scale: float) -> None:
        """``scale`` x ``differences`` has been added to x."""
        self._packing.add(differences, scale * (self.flow.gain - 1))

    @torch.no_grad()
    def load(self, offsets: Sequence[Tensor]) -> None:
        """Take the differences of a checkpoint; ValueError where they are those of other weights."""
        for own, saved in zip(self.offsets, offsets, strict=True):
            if own.shape != saved.shape:
                raise ValueError(f"the momentum of {own.numel()} weights cannot be that of {saved.numel()}")
            own.copy_(saved)
