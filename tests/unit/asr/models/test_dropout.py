"""Dropout: rate, mean, gradient, and silence outside training."""

import pytest
import torch

from asr.models.dropout import LEVELS, Dropout, dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_rate_and_mean(probability: float) -> None:
    torch.manual_seed(0)
    count = 400_003  # not a multiple of what one random word decides
    y = dropout(torch.ones(count), probability, training=True)
    deviation = (probability * (1 - probability) / count) ** 0.5
    assert abs((y == 0).double().mean().item() - probability) < 4 * deviation
    assert y.unique().tolist() == pytest.approx([0.0, 1 / (1 - probability)], rel=1e-4)


@pytest.mark.parametrize("probability", [0.99999, 0.999993, 1 - 1e-12])
def test_a_probability_just_below_one_drops_nearly_everything(probability: float) -> None:
    torch.manual_seed(0)
    y = dropout(torch.ones(400_000), probability, training=True)
    assert y.isfinite().all()
    assert 0 < (y != 0).double().mean().item() < 2e-4
    assert y.max() == LEVELS


def test_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    kept = dropout(torch.ones(400_000), 0.5, training=True).ne(0).double() - 0.5
    for distance in (1, 2, 3, 4, 8):
        assert abs((kept[distance:] * kept[:-distance]).mean().item()) < 4 * 0.25 / 400_000**0.5


def test_gradient_is_the_mask() -> None:
    x = torch.ones(3, 5, 7, requires_grad=True)
    y = dropout(x, 0.4, training=True)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_follows_the_global_generator() -> None:
    x = torch.ones(1000)
    torch.manual_seed(5)
    first = dropout(x, 0.3, training=True)
    second = dropout(x, 0.3, training=True)
    torch.manual_seed(5)
    assert torch.equal(dropout(x, 0.3, training=True), first)
    assert not torch.equal(second, first)


def test_evaluation_and_probability_zero_change_nothing() -> None:
    x = torch.ones(10)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0).train()(x) is x
