"""Hard-concrete masks (Louizos et al. 2018, arXiv 1712.01312, section 3): values in [0, 1] that are often exactly 0 or 1.

    u ~ U(0, 1)    s = sigmoid((log u - log(1 - u) + a) / beta)    z = clamp(s (r - l) + l, 0, 1)    l = -0.1, r = 1.1
    P(z > 0) = sigmoid(a - beta log(-l / r))

In evaluation a mask is deterministic, as in CoFi (Xia et al. 2022, arXiv 2204.00408, and its code): as many units are kept as are
expected, those of the largest a, each with the value sigmoid(0.8 a / beta).
"""

import math

import torch
from torch import Tensor

BETA = 2 / 3
LOW, HIGH = -0.1, 1.1
EDGE = 1e-6  # how near u comes to 0 and 1
SHIFT = BETA * math.log(-LOW / HIGH)
SOFTNESS = 0.8


def sample(log_alpha: Tensor) -> Tensor:
    """Masks of the shape of ``log_alpha``, drawn from torch's global generator; gradients pass where 0 < z < 1."""
    u = torch.rand_like(log_alpha).mul_(1 - 2 * EDGE).add_(EDGE)
    s = ((u.log() - (1 - u).log() + log_alpha) / BETA).sigmoid()
    return (s * (HIGH - LOW) + LOW).clamp(0, 1)


def probability_kept(log_alpha: Tensor) -> Tensor:
    """P(z > 0) of each unit."""
    return (log_alpha - SHIFT).sigmoid()


def expected_kept(log_alpha: Tensor) -> Tensor:
    """Number of units that are expected to be kept, a scalar."""
    return probability_kept(log_alpha).sum()


def initial_log_alpha(dropped: float) -> float:
    """The parameter of a unit that is dropped with this probability."""
    return math.log((1 - dropped) / dropped) + SHIFT


def number_kept(log_alpha: Tensor, least: int, multiple_of: int = 1) -> int:
    """How many units evaluation keeps: the expected number, rounded to a multiple; at least ``least``, at most all."""
    rounded = multiple_of * round(float(expected_kept(log_alpha.detach())) / multiple_of)
    return max(min(len(log_alpha), rounded), least_kept(len(log_alpha), least, multiple_of))


def least_kept(size: int, least: int, multiple_of: int) -> int:
    """How many of ``size`` units evaluation keeps whatever the masks: ``least``, rounded up to a multiple; at most all."""
    return min(size, -(-least // multiple_of) * multiple_of)


def deterministic(
    log_alpha: Tensor, least: int, multiple_of: int = 1, shift: float = 0.0, among: Tensor | None = None
) -> Tensor:
    """Masks of evaluation, without gradient: 0 for all but the ``number_kept`` units of the largest ``log_alpha``.

    ``shift`` is added to ``log_alpha`` for that number alone: units have the values that they had in training. Where
    ``among`` (units,) is False, units are as if there were none: they neither count nor are kept.
    """
    if among is not None:
        inside = deterministic(log_alpha[among], least, multiple_of, shift)
        return torch.zeros_like(log_alpha).masked_scatter_(among, inside)
    kept = number_kept(log_alpha + shift, least, multiple_of)
    chosen = log_alpha.detach().argsort(descending=True, stable=True)[:kept]
    values = (log_alpha.detach()[chosen] * (SOFTNESS / BETA)).sigmoid()
    return torch.zeros_like(log_alpha).index_copy_(0, chosen, values)
