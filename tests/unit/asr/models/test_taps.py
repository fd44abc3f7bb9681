"""What modules inside a model give out."""

import weakref

import pytest
import torch
from torch import nn

from asr.models.taps import Taps, layer_names
from asr.training.memory import attempt
from distributed.errors import UsageError


def test_taps_give_what_modules_gave_out_once_and_with_gradient() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    taps, x = Taps(model, ["0", "1"]), torch.randn(5, 3)
    model(x)
    y = model(2 * x)
    outputs = taps.take()
    assert outputs.keys() == {"0", "1"}
    assert torch.equal(outputs["0"], model[0](2 * x))
    taps.take()
    (gradient,) = torch.autograd.grad(y.sum(), outputs["1"])
    assert torch.equal(gradient, model[2].weight.sum(0).expand(5, 4))
    assert taps.take() == {}
    model(x)
    taps.remove()
    assert taps.take() == {}
    model(x)
    assert taps.take() == {}


def test_a_name_that_there_is_not_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^the model has no modules 2; it has 0, 1$"):
        Taps(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), ["0", "2"])


def test_layers_have_their_names_within_a_model() -> None:
    model = nn.Module()
    model.encoder = nn.Module()
    model.encoder.blocks = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
    assert layer_names(model, model.encoder.blocks) == ["encoder.blocks.0", "encoder.blocks.1"]


def test_what_a_broken_forward_left_is_dropped_when_the_next_one_begins() -> None:
    left: list[weakref.ref[torch.Tensor]] = []

    class Layer(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            assert all(each() is None for each in left)
            output = super().forward(input)
            left.append(weakref.ref(output))
            return output

    class Breaks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError

    model = nn.Sequential(Layer(3, 4), Breaks())
    taps = Taps(model, ["0"])
    for _ in range(2):
        assert attempt(lambda: model(torch.zeros(1, 3))) is None
        assert left[-1]() is not None, "the taps hold it"
    taps.remove()
