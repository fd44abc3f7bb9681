"""The transducer loss of a joiner that only adds, z[t,u] = a[t] + l[u]: the first pass of the pruned loss.

Its normalisers are one matrix product, sum_v exp(a[t,v]) exp(l[u,v]), so that nothing has V entries per cell (Kuang et
al. 2022, arXiv 2206.13236, section 3). Differentiated by autograd but for the lattice, whose gradient are posteriors.

B utterances   T frames   U labels   S = U + 1   V classes with blank   N valid cells, packed
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from asr.losses.lattice import ARC_DTYPE, Shape
from asr.losses.sums import lattice_sums

FLOOR = 1e-30  # floor of normalisers, relative to each side's most probable class: keeps their inverses finite


def additive_scores(
    acoustic_BTV: Tensor, language_BSV: Tensor, label_BS: Tensor, *, blank: int, lm_scale: float
) -> tuple[Tensor, Tensor]:
    """Log probabilities of blank and of the next label in each cell, (B, T, S) both.

    (1 - lm_scale) log softmax(a + l) + lm_scale log softmax(l): the second term, without sound, keeps ``a`` from doing
    what ``l`` can do (k2's "smoothed" loss). k2's term for ``a`` alone is left out: it depends on the other utterances.
    """
    loudest_BT1, likeliest_BS1 = (scores.detach().amax(-1, keepdim=True) for scores in (acoustic_BTV, language_BSV))
    sum_BTS = (acoustic_BTV - loudest_BT1).exp() @ (language_BSV - likeliest_BS1).exp().mT
    normaliser_BTS = sum_BTS.clamp(min=FLOOR).log() + loudest_BT1 + likeliest_BS1.mT
    blank_BTS = acoustic_BTV[:, :, blank, None] + language_BSV[:, None, :, blank] - normaliser_BTS
    frames = acoustic_BTV.shape[1]
    heard_BTS = acoustic_BTV.gather(2, label_BS[:, None].expand(-1, frames, -1))
    label_BTS = heard_BTS + language_BSV.gather(2, label_BS[..., None]).mT - normaliser_BTS
    unheard_BSV = language_BSV.log_softmax(-1)
    unheard_blank_B1S = unheard_BSV[:, None, :, blank]
    unheard_label_B1S = unheard_BSV.gather(2, label_BS[..., None]).mT
    return torch.lerp(blank_BTS, unheard_blank_B1S, lm_scale), torch.lerp(label_BTS, unheard_label_B1S, lm_scale)


def lattice_loss(
    blank_N: Tensor, label_N: Tensor, shape: Shape, *, fastemit: float, delay_penalty: float
) -> tuple[Tensor, Tensor]:
    """-log likelihood of each utterance, (B,), and the occupancy of each cell, (N,) float64 without a gradient.

    The log probabilities are packed; the options have the meaning that they have in the exact loss.
    """
    loss_B, occupancy_N = _LatticeLoss.apply(blank_N, label_N, shape, fastemit, delay_penalty)
    return loss_B, occupancy_N


class _LatticeLoss(torch.autograd.Function):
    """The gradient of -log likelihood with respect to an arc's log probability is minus its posterior."""

    @staticmethod
    def forward(
        ctx: Any, blank_N: Tensor, label_N: Tensor, shape: Shape, fastemit: float, delay_penalty: float
    ) -> tuple[Tensor, Tensor]:
        sums = lattice_sums(blank_N, label_N, shape, delay_penalty=delay_penalty, with_posteriors=True)
        by_blank_N, by_label_N = sums.posteriors(ARC_DTYPE)
        occupancy_N = by_blank_N + by_label_N
        ctx.mark_non_differentiable(occupancy_N)
        ctx.cells_B = torch.tensor(shape.cells, device=blank_N.device)
        ctx.save_for_backward(by_blank_N.to(blank_N.dtype), by_label_N.to(blank_N.dtype) * (1 + fastemit))
        return -sums.log_likelihood_B.to(blank_N.dtype), occupancy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale_B: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        by_blank_N, by_label_N = ctx.saved_tensors
        scale_N = scale_B.repeat_interleave(ctx.cells_B)
        return -scale_N * by_blank_N, -scale_N * by_label_N, None, None, None
