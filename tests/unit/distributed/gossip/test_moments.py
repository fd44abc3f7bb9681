"""Moments of optimizers: what counts as one, and that moving them into flat buffers changes no step."""

import copy

import pytest
import torch
from torch import nn

from asr.training.large_batch import Lamb, Lars
from distributed.gossip.moments import SQUARES, flatten_moments, has_all_moments, moment_names
from distributed.parameters.flat_parameters import FlatParameters

MAKERS = {
    "sgd": (lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9), ["momentum_buffer"]),
    "fused_sgd": (lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, fused=True), ["momentum_buffer"]),
    "plain_sgd": (lambda groups: torch.optim.SGD(groups, lr=0.1), []),
    "adamw": (lambda groups: torch.optim.AdamW(groups, lr=0.1, fused=True), ["exp_avg", "exp_avg_sq"]),
    "amsgrad": (
        lambda groups: torch.optim.AdamW(groups, lr=0.1, amsgrad=True),
        ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"],
    ),
    "lamb": (
        lambda groups: Lamb(groups, lr=0.1, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1),
        ["first", "second"],
    ),
    "lars": (
        lambda groups: Lars(groups, lr=0.1, momentum=0.9, trust_coefficient=0.1, weight_decay=0.1),
        ["velocity"],
    ),
}


class Scaled(nn.Module):
    """A matrix, a scalar parameter (shaped like Adam's step counter) and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3))
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * (self.matrix @ x)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(3, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", MAKERS)
def test_moments_are_found_moved_and_go_on_bitwise(name: str):
    make, expected = MAKERS[name]
    model = Scaled()
    flat, twin = FlatParameters(model, gradients=False), copy.deepcopy(model)
    optimizers = [make([{"params": [p for p in each.parameters() if p.requires_grad]}]) for each in (model, twin)]
    assert moment_names(optimizers[0]) == []
    for each, optimizer in zip((model, twin), optimizers, strict=True):
        step(each, optimizer, seed=0)
    assert moment_names(optimizers[0]) == expected
    moved = flatten_moments(optimizers[0], flat)
    assert list(moved) == expected
    buffers = [buffer for each in moved.values() for buffer in each]
    before = [buffer.clone() for buffer in buffers]
    for seed in (1, 2):
        for each, optimizer in zip((model, twin), optimizers, strict=True):
            step(each, optimizer, seed)
    assert torch.equal(model.matrix, twin.matrix)
    assert torch.equal(model.scale, twin.scale)
    assert all((buffer >= 0).all() == (name in SQUARES) for name, each in moved.items() for buffer in each)
    assert not any(torch.equal(a, b) for a, b in zip(buffers, before, strict=True))  # updated in place


def test_parameters_without_a_gradient_yet_are_awaited_but_not_frozen_ones():
    model = Scaled()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    assert not has_all_moments(optimizer)
    model.matrix.grad = torch.ones(2, 3)
    optimizer.step()
    assert not has_all_moments(optimizer)
    step(model, optimizer, seed=0)
    assert has_all_moments(optimizer)
