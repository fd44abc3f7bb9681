"""The diagnostics of arXiv 2112.01433 against the definitions, written out over learners and weights."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distributed.gossip.diagnostics import (
    StepGradients,
    effective_learning_rate,
    landscape_noise,
    noise_strength,
    staleness_figures,
    weight_variance,
)


def vectors(seed: int, count: int, elements: int = 12) -> Tensor:
    return torch.randn(count, elements, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(0, 2**31), st.floats(0.01, 10.0))
def test_a_step_is_alpha_e_along_the_gradient_and_noise_across_it(seed: int, alpha: float):
    """-alpha g_a = -alpha_e g + eta with eta orthogonal to g and Delta = ||eta||^2 (the paper's decomposition)."""
    g_a, g = vectors(seed, 2)
    alpha_e = effective_learning_rate(alpha, g_a, g)
    eta = -alpha * g_a + alpha_e * g
    assert abs((eta * g).sum().item()) < 1e-10 * alpha * g_a.norm().item() * g.norm().item()
    delta = noise_strength(alpha, g_a, g)
    assert delta == pytest.approx(eta.square().sum().item(), rel=1e-9)
    by_norms = alpha**2 * ((g_a @ g_a) - (g_a @ g) ** 2 / (g @ g))
    assert delta == pytest.approx(by_norms.item(), rel=1e-6)
    assert alpha_e**2 == pytest.approx(((alpha**2 * g_a @ g_a - delta) / (g @ g)).item(), rel=1e-6, abs=1e-12)


def test_learners_of_a_quadratic_loss_against_brute_force():
    """L_j(w) = sum_i h_ji (w_i - c_ji)^2 / 2 on learner j: every gradient known in closed form."""
    n, alpha = 5, 0.3
    centres, weights = vectors(0, n), vectors(1, n)
    curvatures = vectors(2, n).abs()
    w_a = weights.mean(0)
    own = torch.stack([curvatures[j] * (weights[j] - centres[j]) for j in range(n)])
    at_mean = torch.stack([curvatures[j] * (w_a - centres[j]) for j in range(n)])
    g = curvatures.mean(0) * w_a  # of another loss: the probe
    figures = StepGradients(own.mean(0), at_mean.mean(0), g).diagnostics(alpha)
    delta_2 = alpha**2 * sum(
        ((own[j] - at_mean[j]) @ (own[k] - at_mean[k])).item() / n**2 for j in range(n) for k in range(n)
    )
    assert figures["diagnostics/delta_2"] == pytest.approx(delta_2)
    for key, gradient in (("delta", own.mean(0)), ("delta_s", at_mean.mean(0))):
        across = alpha * gradient - alpha * (gradient @ g) / (g @ g) * g
        assert figures[f"diagnostics/{key}"] == pytest.approx(across.square().sum().item())
    assert figures["diagnostics/alpha_e"] == pytest.approx((alpha * (own.mean(0) @ g) / (g @ g)).item())
    distance = sum(((weights[j] - w_a) @ (weights[j] - w_a)).item() for j in range(n)) / n
    covariance = sum(torch.outer(weights[j] - w_a, weights[j] - w_a) for j in range(n)) / n**2
    assert weight_variance(distance, n) == pytest.approx(covariance.trace().item())


def test_where_learners_agree_nothing_comes_of_the_landscape():
    g_a, g = vectors(3, 2)
    figures = StepGradients(g_a, g_a, g).diagnostics(0.1)
    assert figures["diagnostics/delta_2"] == 0
    assert figures["diagnostics/delta"] == figures["diagnostics/delta_s"]
    assert effective_learning_rate(0.1, 2 * g, g) == pytest.approx(0.2)
    assert noise_strength(0.1, 2 * g, g) == pytest.approx(0, abs=1e-28)


def test_noise_is_exact_where_norms_would_cancel_in_fp32():
    g = torch.ones(1000)
    g_a = g.clone()
    g_a[0] += 1e-3
    assert noise_strength(1.0, g_a, g) == pytest.approx(1e-6 * (1 - 1 / 1000), rel=1e-3)
    assert landscape_noise(2.0, g_a, g) == pytest.approx(4e-6, rel=1e-3)
    assert math.isnan(effective_learning_rate(1.0, g, torch.zeros(1000)))


def test_staleness_by_exchanges():
    assert staleness_figures({0: 5, 3: 2, 1: 1}) == {
        "comm/staleness_mean": 7 / 8, "comm/staleness_max": 3.0,
        "comm/staleness/0": 5.0, "comm/staleness/1": 1.0, "comm/staleness/3": 2.0,
    }  # fmt: skip
    assert staleness_figures({}) == {}
