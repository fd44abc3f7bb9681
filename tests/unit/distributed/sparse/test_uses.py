"""How often parameters are used, against counts by hand; and the rates that follow."""

import pytest
import torch
from torch import Tensor, nn

from distributed.sparse.uses import count_uses, rate_by_uses


def test_the_papers_rates():
    assert [rate_by_uses(uses) for uses in (10_000, 196, 195.9, 128, 127.9, 21, 0)] == [25, 25, 50, 50, 400, 400, 400]


def test_a_linear_layer_uses_its_weight_once_per_position():
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2, bias=False))
    uses = count_uses(model, lambda: model(torch.randn(1, 7, 3)))
    assert uses["0.weight"] == uses["1.weight"] == 7


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_uses_its_weight_once_per_output(groups: int):
    model = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=groups), nn.Conv1d(4, 4, 3))
    uses = count_uses(model, lambda: model[1](model[0](torch.randn(1, 2, 11, 6)).flatten(2)))
    assert uses["0.weight"] == 6 * 3
    assert uses["1.weight"] == 6 * 3 - 2
    assert uses["0.bias"] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_layer_uses_its_weights_once_per_step(kind: type[nn.RNNBase], dtype: torch.dtype):
    """Which operators it is made of depends on the dtype."""
    model = kind(3, 5, num_layers=2, bidirectional=True, batch_first=True).to(dtype)
    uses = count_uses(model, lambda: model(torch.randn(1, 9, 3, dtype=dtype)))
    weights = {name: count for name, count in uses.items() if name.startswith("weight")}
    assert weights == dict.fromkeys(weights, 9.0)
    assert len(weights) == 8


def test_uses_of_a_tied_parameter_add_up_and_partial_uses_count_partly():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 4)
            self.output = nn.Linear(4, 10, bias=False)
            self.output.weight = self.embedding.weight

        def forward(self, tokens: Tensor) -> Tensor:
            hidden = self.embedding(tokens)
            return self.output(hidden) + nn.functional.linear(hidden[:2], self.output.weight[5:]).sum()

    model = Tied()
    lookups, outputs, half = 6 / 10, 6, 2 / 2
    assert count_uses(model, lambda: model(torch.arange(6))) == {"embedding.weight": lookups + outputs + half}


def test_copies_of_a_parameter_are_the_parameter():
    """A loss that lays out a weight anew, or narrows it, and writes where it likes; as a function of its own."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor, weight: Tensor) -> Tensor:
            transposed = weight.to(torch.bfloat16).t().contiguous()
            return torch.mm(x.bfloat16(), transposed, out=torch.empty(8, 5, dtype=torch.bfloat16))

    weight = nn.Parameter(torch.randn(5, 3))
    model = nn.ParameterDict({"weight": weight, "other": torch.randn(5, 3)})
    assert count_uses(model, lambda: Product.apply(torch.randn(8, 3), weight)) == {"weight": 8, "other": 0}


def test_only_products_with_parameters_count_and_freed_memory_has_no_owner():
    model = nn.Linear(64, 64)

    def forward() -> None:
        for _ in range(5):
            hidden = model(torch.randn(3, 64))
            hidden = (hidden @ hidden.T.contiguous()).softmax(-1) @ hidden + model.bias

    assert count_uses(model, forward) == {"weight": 15, "bias": 0}
