"""The convolution of the subsampling against torch's own, whose weight's gradient it computes in another way."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.models.strided_convolution import StridedConv2d, gradient_of_weight, multiplies_faster
from asr.models.subsampling import ConvSubsampling, masked_silu


def images(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """(B, C, T, F) with the channels last in memory, with gradient."""
    return torch.randn(*shape, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()


def gradients(module: nn.Conv2d, x_BCTF: Tensor, output_gradient: Tensor) -> tuple[Tensor, ...]:
    output = module(x_BCTF)
    return (output, *torch.autograd.grad(output, (x_BCTF, *module.parameters()), output_gradient.view_as(output)))


@pytest.mark.parametrize(
    ("sizes", "channels", "filters", "stride", "padding"),
    [
        ((2, 9, 8), (3, 5), 3, 2, 1),
        ((1, 1, 1), (3, 2), 3, 2, 1),  # nothing but padding around one value
        ((3, 10, 7), (1, 4), 3, 2, 1),  # the first convolution of the subsampling
        ((2, 11, 5), (2, 3), (5, 2), (3, 1), (2, 0)),
    ],
)
def test_outputs_and_gradients_are_those_of_torch(
    sizes: tuple[int, int, int], channels: tuple[int, int], filters: int, stride: int, padding: int
) -> None:
    torch.manual_seed(0)
    batch, frames, bands = sizes
    ours = StridedConv2d(*channels, filters, stride=stride, padding=padding).double()
    theirs = nn.Conv2d(*channels, filters, stride=stride, padding=padding).double()
    theirs.load_state_dict(ours.state_dict())
    x_BCTF = images(batch, channels[0], frames, bands)
    assert multiplies_faster(x_BCTF, ours.weight, ours.bias)
    output_gradient = torch.randn_like(theirs(x_BCTF))
    for found, expected in zip(
        gradients(ours, x_BCTF, output_gradient), gradients(theirs, x_BCTF, output_gradient), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    module = StridedConv2d(2, 3, 3, stride=2, padding=1).double()
    assert torch.autograd.gradcheck(
        lambda x, weight, bias: module._conv_forward(x, weight, bias),
        (images(2, 2, 5, 4), *module.parameters()),
    )


@pytest.mark.parametrize("values", [1, 7 * 9, 1 << 20])
def test_blocks_sum_to_the_whole(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr.models.strided_convolution.BLOCK_VALUES", values)
    torch.manual_seed(0)
    x_BCTF, weight = images(2, 2, 13, 6), torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    output = functional.conv2d(x_BCTF, weight, None, 2, 1)
    output_gradient = torch.randn_like(output)
    expected = torch.autograd.grad(output, weight, output_gradient)[0]
    found = gradient_of_weight(x_BCTF.detach(), output_gradient, weight, (2, 2), (1, 1))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_gradient_has_the_strides_of_its_weight() -> None:
    """DistributedDataParallel warns, and copies, where it has others."""
    module = ConvSubsampling(feature_dimension=8, channels=(3, 4), dimension=5)
    states, _ = module(torch.randn(2, 12, 8), torch.tensor([12, 7]))
    states.sum().backward()
    for parameter in module.parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride()


def test_frozen_parts_get_no_gradient_and_inputs_still_do() -> None:
    torch.manual_seed(0)
    module = StridedConv2d(2, 3, 3, stride=2, padding=1)
    x_BCTF = images(1, 2, 6, 6, dtype=torch.float32)
    expected = torch.autograd.grad(module(x_BCTF).sum(), x_BCTF)[0]
    module.bias.requires_grad_(False)  # type: ignore[union-attr]
    torch.testing.assert_close(torch.autograd.grad(module(x_BCTF).sum(), x_BCTF)[0], expected)
    module.weight.requires_grad_(False)
    assert not multiplies_faster(x_BCTF, module.weight)
    torch.testing.assert_close(torch.autograd.grad(module(x_BCTF).sum(), x_BCTF)[0], expected)


@pytest.mark.parametrize("case", ["contiguous", "autocast", "bfloat16", "no gradient"])
def test_others_take_the_way_of_torch(case: str) -> None:
    torch.manual_seed(0)
    module = StridedConv2d(2, 3, 3, stride=2, padding=1)
    x_BCTF = torch.randn(2, 2, 8, 6) if case == "contiguous" else images(2, 2, 8, 6, dtype=torch.float32).detach()
    if case == "bfloat16":
        module, x_BCTF = copy.deepcopy(module).bfloat16(), x_BCTF.bfloat16()
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"),
        torch.set_grad_enabled(case != "no gradient"),
    ):
        assert not multiplies_faster(x_BCTF, module.weight)
        found = module(x_BCTF)
        expected = functional.conv2d(x_BCTF, module.weight, module.bias, 2, 1)
    assert torch.equal(found, expected)
    if case != "no gradient":
        found.float().sum().backward()
        assert module.weight.grad is not None


def test_masked_silu_is_silu_of_what_is_masked() -> None:
    torch.manual_seed(0)
    x_BCTF = images(2, 3, 4, 5)
    hidden = (torch.arange(4) >= torch.tensor([[4], [2]]))[:, None, :, None]
    found, expected = masked_silu(x_BCTF, hidden), functional.silu(x_BCTF.masked_fill(hidden, 0.0))
    assert torch.equal(found, expected)
    output_gradient = torch.randn_like(found)
    torch.testing.assert_close(
        torch.autograd.grad(found, x_BCTF, output_gradient)[0],
        torch.autograd.grad(expected, x_BCTF, output_gradient)[0],
        rtol=1e-14, atol=0.0,
    )  # fmt: skip
    assert torch.autograd.gradcheck(masked_silu, (images(2, 1, 4, 2), hidden))
