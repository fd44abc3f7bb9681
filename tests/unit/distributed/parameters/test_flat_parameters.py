"""Parameters as views of flat buffers: nothing a model or an optimizer does may notice."""

import copy

import pytest
import torch
from torch import nn

from distributed.parameters.flat_parameters import ALIGNMENT_BYTES, FlatParameters


class Recurrent(nn.Module):
    """An LSTM with an output layer tied to its embedding, and one frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 5)
        self.lstm = nn.LSTM(5, 5, num_layers=2, batch_first=True, bidirectional=False)
        self.output = nn.Linear(5, 7)
        self.output.weight = self.embedding.weight
        self.frozen = nn.Parameter(torch.randn(3), requires_grad=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.output(self.lstm(self.embedding(tokens))[0])


def step(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: torch.Tensor) -> None:
    model(tokens).square().mean().backward()
    optimizer.step()


def test_training_is_bitwise_that_of_the_plain_model():
    torch.manual_seed(0)
    plain = Recurrent()
    flat_model = copy.deepcopy(plain)
    flat = FlatParameters(flat_model, gradients=True)
    tokens = torch.randint(0, 7, (4, 6))
    plain_optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01)
    flat_optimizer = torch.optim.AdamW(flat_model.parameters(), lr=0.01)
    for _ in range(3):
        step(plain, plain_optimizer, tokens)
        plain_optimizer.zero_grad()
        step(flat_model, flat_optimizer, tokens)
        flat.zero_grad()
    flat.verify()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), flat_model.parameters(), strict=True))


def test_tied_parameters_lie_in_the_buffer_once_and_stay_tied():
    model = Recurrent()
    identities = [id(parameter) for parameter in model.parameters()]
    flat = FlatParameters(model, gradients=True)
    assert model.output.weight is model.embedding.weight
    assert [id(parameter) for parameter in model.parameters()] == identities
    elements = ALIGNMENT_BYTES // 4
    assert flat.flat[0].numel() == sum(-(-p.numel() // elements) * elements for p in model.parameters())


def test_a_write_to_the_buffer_is_a_write_to_the_model_and_aligned():
    model = Recurrent()
    flat = FlatParameters(model, gradients=True)
    flat.flat[0].fill_(0.5)
    assert all((parameter == 0.5).all() for parameter in model.parameters())
    assert all(parameter.data_ptr() % ALIGNMENT_BYTES == 0 for parameter in model.parameters())


def test_gradients_stay_views_through_backward_optimizer_and_zero_grad():
    model = Recurrent()
    flat = FlatParameters(model, gradients=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tokens = torch.randint(0, 7, (4, 6))
    step(model, optimizer, tokens)
    norm = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    assert torch.allclose(flat.flat_grad[0].norm(), norm)
    optimizer.zero_grad(set_to_none=True)
    step(model, optimizer, tokens)  # its gradients are not in the buffer, but are correct
    flat.zero_grad()
    assert all(not p.grad.any() for p in model.parameters() if p.requires_grad)
    step(model, optimizer, tokens)
    assert flat.flat_grad[0].any()


def test_frozen_parameters_have_no_gradient_until_they_are_unfrozen():
    model = Recurrent()
    flat = FlatParameters(model, gradients=True)
    before = model.frozen.clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    step(model, optimizer, torch.zeros(1, 2, dtype=torch.int64))
    assert model.frozen.grad is None
    assert torch.equal(model.frozen, before)
    model.frozen.requires_grad_(True)
    flat.zero_grad()
    model.frozen.sum().backward()
    assert flat.flat_grad[0].sum() == 3


def test_one_buffer_per_dtype():
    model = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3).double(), nn.Linear(3, 3)])
    flat = FlatParameters(model, gradients=True)
    assert [buffer.dtype for buffer in flat.flat] == [torch.float32, torch.float64]
    flat.flat[1].zero_()
    assert not model[1].weight.any()
    assert model[0].weight.any()
    assert model[2].weight.any()


def test_verify_names_a_parameter_that_was_replaced_moved_or_added():
    for damage in ("replaced", "moved", "added"):
        model = nn.Sequential(nn.Linear(2, 2))
        flat = FlatParameters(model, gradients=True)
        flat.verify()
        if damage == "replaced":
            model[0].bias = nn.Parameter(torch.zeros(2))
        elif damage == "moved":
            model[0].bias.data = torch.zeros(2)
        else:
            model[0].bias_2 = nn.Parameter(torch.zeros(2))
        with pytest.raises(ValueError, match=r"0\.bias"):
            flat.verify()


def test_two_parameters_on_the_same_memory_are_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = nn.Parameter(model[0].weight.data)
    with pytest.raises(ValueError, match=r"0\.weight.*1\.weight|1\.weight.*0\.weight"):
        FlatParameters(model, gradients=False)
