"""The hand-written LSTM: an ordinary one without rounding, and with it what a plain loop through autograd computes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from compression.quantization.activations import bounded
from compression.quantization.lstm import lstm_sequence

T, B, K, H = 9, 3, 5, 4


class Rounded(torch.autograd.Function):
    """Rounds forward, and lets gradients through."""

    @staticmethod
    def forward(ctx: object, x: Tensor, levels: int) -> Tensor:
        return (x * levels).round() / levels

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], None


def plain_loop(
    x_TBK: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor,
    hidden: Tensor,
    cell: Tensor,
    quantize: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """The equations, step by step."""
    outputs = []
    for x in x_TBK:
        i, f, g, o = (x @ w_ih.t() + hidden @ w_hh.t() + bias).chunk(4, dim=1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = quantize(o.sigmoid() * cell.tanh())
        outputs.append(hidden)
    return torch.stack(outputs), hidden, cell


def drawn(dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((T, B, K), (4 * H, K), (4 * H, H), (4 * H,), (B, H), (B, H))
    return [torch.randn(shape, dtype=dtype, generator=generator).mul(0.7).requires_grad_() for shape in shapes]


def check_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], inputs: list[Tensor]) -> None:
    """Fail unless outputs, last states and gradients by all inputs agree."""
    upstream = [torch.randn(each.shape) for each in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(each, inputs, upstream) for each in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("levels", [None, 1, 7, 127])
def test_outputs_and_gradients_are_those_of_a_plain_loop(levels: int | None) -> None:
    inputs = drawn(torch.float32)
    expected = plain_loop(*inputs, lambda hidden: hidden if levels is None else Rounded.apply(hidden, levels))
    check_same(lstm_sequence(*inputs, largest_code=levels), expected, inputs)


@pytest.mark.parametrize("residual", [False, True], ids=["pact", "pact_plus"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_learned_bound_has_the_gradient_of_one_in_a_plain_loop(bits: int, residual: bool) -> None:
    inputs, bound_1 = drawn(torch.float32), torch.tensor([0.3], requires_grad=True)
    expected = plain_loop(*inputs, lambda hidden: bounded(hidden, bound_1, bound_1, bits, residual=residual))
    assert (expected[0].abs() > 0.299).any(), "some are clipped"
    found = lstm_sequence(*inputs, largest_code=2 ** (bits - 1) - 1, bound_1=bound_1, residual=residual)
    check_same(found, expected, [*inputs, bound_1])


def test_gradients_in_double_precision() -> None:
    assert torch.autograd.gradcheck(lambda *given: lstm_sequence(*given, largest_code=None), drawn(torch.float64))


def test_gradients_without_a_bias_and_without_those_of_the_input() -> None:
    x_TBK, w_ih, w_hh, bias, hidden, cell = drawn(torch.float64)
    assert torch.autograd.gradcheck(
        lambda w_ih, w_hh: lstm_sequence(x_TBK.detach(), w_ih, w_hh, None, hidden, cell, largest_code=None),
        (w_ih, w_hh),
    )
    without = lstm_sequence(x_TBK, w_ih, w_hh, None, hidden, cell, largest_code=7)
    of_zero = lstm_sequence(x_TBK, w_ih, w_hh, torch.zeros_like(bias), hidden, cell, largest_code=7)
    torch.testing.assert_close(without, of_zero)


@pytest.mark.parametrize(("bits", "tolerance"), [(16, 2e-4), (24, 2e-6)])
def test_many_bits_are_torchs_lstm_to_rounding(bits: int, tolerance: float) -> None:
    torch.manual_seed(1)
    reference, x_TBK = nn.LSTM(K, H), torch.randn(T, B, K)
    w_ih, w_hh, b_ih, b_hh = reference.parameters()
    zero_BH = torch.zeros(B, H)
    expected, (hidden_1BH, cell_1BH) = reference(x_TBK)
    found = lstm_sequence(x_TBK, w_ih, w_hh, b_ih + b_hh, zero_BH, zero_BH, largest_code=2 ** (bits - 1) - 1)
    for one, other in zip(found, (expected, hidden_1BH[0], cell_1BH[0]), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)
    upstream = torch.randn(T, B, H)
    pairs = zip(
        torch.autograd.grad(found[0], [w_ih, w_hh, b_ih, b_hh], upstream),
        torch.autograd.grad(expected, [w_ih, w_hh, b_ih, b_hh], upstream),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=10 * tolerance, atol=10 * tolerance)


def test_hidden_states_are_whole_codes_and_a_sequence_may_be_cut_anywhere() -> None:
    x_TBK, *weights, hidden, cell = (each.detach() for each in drawn(torch.float32))
    hidden = (7 * hidden.tanh()).round() / 7
    outputs, *last = lstm_sequence(x_TBK, *weights, hidden, cell, largest_code=7)
    torch.testing.assert_close(7 * outputs, (7 * outputs).round())
    first, *between = lstm_sequence(x_TBK[:4], *weights, hidden, cell, largest_code=7)
    second, *end = lstm_sequence(x_TBK[4:], *weights, *between, largest_code=7)
    torch.testing.assert_close(torch.cat([first, second]), outputs)
    torch.testing.assert_close(end, last)
