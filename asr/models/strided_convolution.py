"""A convolution over images of channels-last layout whose weight gets its gradient from matrix products.

The gradient of a weight is a sum over the places of the output, of the output's gradient times what the filter saw
there; with the nine channels-first rows of a window laid out as one row it is a product of two matrices:

    dL/dw[k, c, i, j]  =  sum over (b, t, f) of  g[b, k, t, f]  x[b, c, s t + i - p, s f + j - p]

oneDNN computes this sum at a fifth of the rate of a matrix product where the stride is 2 (measured on AVX2), so windows
are copied, block by block, and multiplied. The other two of a convolution's three products are fast as they are.

B images   C input channels   T, F sizes of the input   K output channels   T', F' sizes of the output
I, J sizes of the filter   s stride   p padding
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

Pair = tuple[int, int]

BLOCK_VALUES = 1 << 20  # window values that are copied at a time: 4 MB, which stay in a cache


class StridedConv2d(nn.Conv2d):
    """``nn.Conv2d`` in one group, without dilation; where it is faster, its weight's gradient is a matrix product."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(B, C, T, F) to (B, K, T', F')."""
        assert not isinstance(self.padding, str)
        stride, padding = (self.stride[0], self.stride[1]), (self.padding[0], self.padding[1])
        if bias is not None and multiplies_faster(input, weight, bias):
            output: Tensor = _Convolution.apply(input, weight, bias, stride, padding)
            return output
        # With a single input channel a channels-last gradient passes for contiguous, and DistributedDataParallel warns
        # of the weight's strides: it takes part through views that bring its gradient back in its own.
        return functional.conv2d(input, weight.flatten(1).view_as(weight), bias, stride, padding)


def multiplies_faster(input_BCTF: Tensor, *parameters: Tensor) -> bool:
    """Whether there will be a gradient to multiply for: on a CPU, channels last, one dtype, not reduced by autocast."""
    device, dtype = input_BCTF.device, input_BCTF.dtype
    return (
        device.type == "cpu"
        and dtype in (torch.float32, torch.float64)
        and all(each.dtype == dtype for each in parameters)
        and not torch.is_autocast_enabled("cpu")
        and torch.is_grad_enabled()
        and parameters[0].requires_grad
        and input_BCTF.stride(1) == 1
        and not torch.onnx.is_in_onnx_export()
    )


class _Convolution(torch.autograd.Function):
    """The convolution of torch, with a backward that takes one of its products from here."""

    @staticmethod
    def forward(ctx: Any, x_BCTF: Tensor, weight_KCIJ: Tensor, bias_K: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x_BCTF, weight_KCIJ)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(x_BCTF, weight_KCIJ, bias_K, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BKTF: Tensor) -> tuple[Tensor | None, ...]:
        x_BCTF, weight_KCIJ = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        gradient_BKTF = gradient_BKTF.contiguous(memory_format=torch.channels_last)
        x_gradient = weight_gradient = None
        if needs_x:
            x_gradient = torch.ops.aten.convolution_backward(
                gradient_BKTF, x_BCTF, weight_KCIJ, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1,
                (True, False, False),
            )[0]  # fmt: skip
        if needs_weight:
            weight_gradient = gradient_of_weight(x_BCTF, gradient_BKTF, weight_KCIJ, ctx.stride, ctx.padding)
        bias_gradient = gradient_BKTF.sum((0, 2, 3)) if needs_bias else None
        return x_gradient, weight_gradient, bias_gradient, None, None


def gradient_of_weight(
    x_BCTF: Tensor, gradient_BKTF: Tensor, weight_KCIJ: Tensor, stride: Pair, padding: Pair
) -> Tensor:
    """dL/dw in the shape and strides of ``weight_KCIJ``, for the gradient of the output."""
    _, channels, high, wide = weight_KCIJ.shape
    outputs, frames, bands = gradient_BKTF.shape[1:]
    total_RK = x_BCTF.new_zeros(high * wide * channels, outputs)  # R = I J C, the values of a window
    size = [extent + 2 * pad for extent, pad in zip(x_BCTF.shape[2:], padding, strict=True)]
    padded_TFC = x_BCTF.new_zeros(*size, channels)
    inside_TFC = padded_TFC[padding[0] : size[0] - padding[0], padding[1] : size[1] - padding[1]]
    window_TFCIJ = padded_TFC.unfold(0, high, stride[0]).unfold(1, wide, stride[1])
    step = max(1, BLOCK_VALUES // (bands * len(total_RK)))
    for x_CTF, gradient_KTF in zip(x_BCTF, gradient_BKTF, strict=True):
        inside_TFC.copy_(x_CTF.permute(1, 2, 0))
        gradient_TFK = gradient_KTF.permute(1, 2, 0)
        for start in range(0, frames, step):
            block_NR = window_TFCIJ[start : start + step].permute(0, 1, 3, 4, 2).reshape(-1, len(total_RK))
            block_gradient_NK = gradient_TFK[start : start + step].reshape(-1, outputs)
            torch.addmm(total_RK, block_NR.t(), block_gradient_NK, out=total_RK)
    gradient_KCIJ = total_RK.view(high, wide, channels, outputs).permute(3, 2, 0, 1)
    return torch.empty_like(weight_KCIJ).copy_(gradient_KCIJ)
