"""The constraint on the cost of masks (Wang et al. 2020, arXiv 1910.04732, section 3; in 2305.19549, section 2).

    L = l1 (s - t) + l2 (s - t)^2        s = 1 - cost(expected sizes) / cost(all units)    t: the target

The masks descend and the multipliers l1, l2 ascend, so that at the saddle point s = t.
"""

import torch
from torch import Tensor, nn


class Multipliers(nn.Module):
    """l1 and l2, which ascend from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.zeros(()))
        self.quadratic = nn.Parameter(torch.zeros(()))

    def forward(self, sparsity: Tensor, target: float) -> Tensor:
        """The term L, a scalar of at least fp32."""
        excess = sparsity - target
        return self.linear * excess + self.quadratic * excess.square()


def target_at(done: float, sparsity: float, rise: float) -> float:
    """The target after a fraction ``done`` of the run: a straight line from 0, which reaches ``sparsity`` at ``rise``."""
    return sparsity if done >= rise else sparsity * done / rise
