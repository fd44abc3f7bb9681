"""What decentralised SGD does to the learning rate, the diagnostics of arXiv 2112.01433, section 2; and staleness.

The mean weights w_a of n learners move by -alpha g_a, g_a the mean of gradients taken at the learners' own weights.
Split along g, the gradient of the whole loss at w_a, that is a step of length alpha_e in its direction and noise:

    alpha_e  =  alpha (g_a . g) / ||g||^2                         effective learning rate
    Delta    =  || alpha g_a - alpha_e g ||^2                     strength of the noise
    Delta_S  =  the same with g_0 in place of g_a                 noise of the mini-batches alone
    Delta(2) =  alpha^2 ||g_a - g_0||^2                           noise that comes of the learners' distances
    sigma_w^2 = n^-2 sum_j ||w_j - w_a||^2                        with n^-2, as in the paper

g_0 is the gradient at w_a on the learners' own mini-batches together. g must come from other data than these: sharing
them would bias alpha_e upwards. Vectors have shape (elements,), or any shape in common; sums are taken in float64.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


def effective_learning_rate(alpha: float, step_gradient: Tensor, loss_gradient: Tensor) -> float:
    """alpha_e: the length of ``alpha * step_gradient`` along ``loss_gradient``, in units of it; NaN where that is 0."""
    inner, squared_norm = _dot(step_gradient, loss_gradient), _dot(loss_gradient, loss_gradient)
    return alpha * inner / squared_norm if squared_norm else float("nan")


def noise_strength(alpha: float, step_gradient: Tensor, loss_gradient: Tensor) -> float:
    """Delta: the squared length of the component of ``alpha * step_gradient`` that is orthogonal to ``loss_gradient``.

    Computed from the difference, not from norms that cancel where the two directions agree.
    """
    along = effective_learning_rate(1.0, step_gradient, loss_gradient)
    across = step_gradient.double() - along * loss_gradient.double()
    return alpha**2 * _dot(across, across)


def landscape_noise(alpha: float, step_gradient: Tensor, superbatch_gradient: Tensor) -> float:
    """Delta(2): the noise added by taking gradients at the learners' own weights instead of at their mean."""
    gained = step_gradient.double() - superbatch_gradient.double()
    return alpha**2 * _dot(gained, gained)


def weight_variance(consensus_distance: float, learners: int) -> float:
    """sigma_w^2 from the mean over learners of ||w_j - w_a||^2 (``consensus/distance``), which has n^-1 for n^-2."""
    return consensus_distance / learners


def staleness_figures(exchanges: Mapping[int, int]) -> dict[str, float]:
    """Mean, maximum and histogram of the staleness of exchanges, under ``comm/staleness*``; empty without exchanges.

    ``exchanges``: number of exchanges by staleness, in this learner's own updates.
    """
    total = sum(exchanges.values())
    if not total:
        return {}
    return {
        "comm/staleness_mean": sum(age * number for age, number in exchanges.items()) / total,
        "comm/staleness_max": float(max(exchanges)),
        **{f"comm/staleness/{age}": float(exchanges[age]) for age in sorted(exchanges)},
    }


@dataclass(frozen=True, slots=True)
class StepGradients:
    """The gradients of one step, averaged over learners; all three have the same shape."""

    at_own_weights: Tensor  # g_a: every learner's own mini-batch at its own weights
    at_mean_weights: Tensor  # g_0: the same mini-batches at the mean weights
    of_loss: Tensor  # g: a large independent batch at the mean weights

    def diagnostics(self, alpha: float) -> dict[str, float]:
        """All diagnostics but sigma_w2, by the key of their metric."""
        return {
            "diagnostics/alpha_e": effective_learning_rate(alpha, self.at_own_weights, self.of_loss),
            "diagnostics/delta": noise_strength(alpha, self.at_own_weights, self.of_loss),
            "diagnostics/delta_s": noise_strength(alpha, self.at_mean_weights, self.of_loss),
            "diagnostics/delta_2": landscape_noise(alpha, self.at_own_weights, self.at_mean_weights),
        }


def _dot(a: Tensor, b: Tensor) -> float:
    return torch.linalg.vecdot(a.double().flatten(), b.double().flatten()).item()
