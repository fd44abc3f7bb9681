"""Masks: how often they are 0, what evaluation keeps, and norms of what is kept."""

import pytest
import torch
from torch.nn import functional

from compression.pruning.hard_concrete import (
    deterministic,
    expected_kept,
    initial_log_alpha,
    number_kept,
    probability_kept,
    sample,
)
from compression.pruning.norms import masked_layer_norm


def test_units_are_kept_as_often_as_the_formula_says() -> None:
    torch.manual_seed(0)
    log_alpha = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])
    z = sample(log_alpha.expand(20_000, -1))
    torch.testing.assert_close((z > 0).float().mean(0), probability_kept(log_alpha), atol=0.01, rtol=0)
    assert z.min() == 0
    assert z.max() == 1
    assert 0.05 < ((z > 0) & (z < 1)).float().mean() < 0.6, "most are exactly 0 or 1"


def test_the_first_parameter_is_that_of_its_probability() -> None:
    for dropped in (0.01, 0.3):
        kept = probability_kept(torch.tensor(initial_log_alpha(dropped)))
        assert float(kept) == pytest.approx(1 - dropped, abs=1e-6)


def test_samples_have_the_gradient_of_their_formula() -> None:
    log_alpha = torch.tensor([-0.5, 0.2, 0.7], dtype=torch.float64, requires_grad=True)

    def drawn(values: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return sample(values)

    assert drawn(log_alpha).detach().gt(0).tolist() == [False, True, True]
    assert torch.autograd.gradcheck(drawn, log_alpha)
    assert torch.autograd.gradcheck(expected_kept, log_alpha)


@pytest.mark.parametrize(("least", "multiple", "count"), [(1, 1, 5), (7, 1, 7), (1, 4, 4), (5, 4, 8), (9, 4, 10)])
def test_evaluation_keeps_the_expected_number_of_the_largest(least: int, multiple: int, count: int) -> None:
    torch.manual_seed(0)
    log_alpha = torch.randn(10)
    log_alpha += 5 * (log_alpha.argsort().argsort() >= 5).float() - 4 * (log_alpha.argsort().argsort() < 5).float()
    assert round(float(expected_kept(log_alpha))) == 5
    z = deterministic(log_alpha, least, multiple)
    assert number_kept(log_alpha, least, multiple) == int((z > 0).sum()) == count
    assert log_alpha[z > 0].min() >= log_alpha[z == 0].max() if count < 10 else True
    assert (z <= 1).all()
    assert torch.equal(z, deterministic(log_alpha, least, multiple))


def test_a_masked_norm_is_that_of_the_kept_entries_alone() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(4, 9, 16), torch.randn(16), torch.randn(16)
    kept = torch.rand(16) > 0.4
    whole = masked_layer_norm(x, kept, weight, bias, 1e-5)
    alone = functional.layer_norm(x[..., kept], (int(kept.sum()),), weight[kept], bias[kept], 1e-5)
    torch.testing.assert_close(whole[..., kept], alone)
    assert (whole[..., ~kept] == 0).all()
    others = torch.where(kept, x, 100 * torch.randn_like(x))
    torch.testing.assert_close(masked_layer_norm(others, kept, weight, bias, 1e-5), whole)
    half = masked_layer_norm(x.bfloat16(), kept, weight, bias, 1e-5)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), whole, atol=0.05, rtol=0.05)
    every = torch.ones(16)
    torch.testing.assert_close(
        masked_layer_norm(x, every, weight, bias, 1e-5), functional.layer_norm(x, (16,), weight, bias)
    )
