"""One direction of an LSTM whose hidden state is quantised at every step, as a hand-written autograd function.

    gates_t = W_ih x_t + b + W_hh h_{t-1}       i, f, o = sigmoid,  g = tanh
    c_t = f c_{t-1} + i g                       the cell state is not quantised, nor are biases
    h_t = a / n clamp(round(n / a o tanh(c_t)), -n, n)      n = 2^(bits-1) - 1

(arXiv 2108.12074, section 3. Bound-aware clipping: a = 1, since |o tanh(c)| < 1; a learned bound a has the gradient of
compression/quantization/activations.py.) A quantised h is read by the next step and by the next layer, so that it is rounded
once. Rounding has the straight-through gradient.

It is fast without a compiler: all products with x are one matrix product; a step works on codes, whose a / n is folded
into W_hh once, and does the fewest operations, in place; backward computes local derivatives of all steps at once, so
that a step of it is one product and five element-wise operations, and gradients of the matrices are one product each.

T steps   B sequences   K inputs   H cells   4H gates, in the order i, f, g, o
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class _LstmSequence(torch.autograd.Function):
    """See ``lstm_sequence``."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TBK: Tensor,
        input_weight_4HK: Tensor,
        hidden_weight_4HH: Tensor,
        bias_4H: Tensor | None,
        hidden_BH: Tensor,
        cell_BH: Tensor,
        largest_code: int | None,
        bound_1: Tensor | None,
        residual: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x_TBK = x_TBK.contiguous()
        steps, batch, inputs = x_TBK.shape
        cells, scale = hidden_BH.shape[1], float(largest_code or 1) / (1.0 if bound_1 is None else float(bound_1))
        rows = x_TBK.view(-1, inputs)
        gates_TB4H = (
            rows @ input_weight_4HK.t() if bias_4H is None else torch.addmm(bias_4H, rows, input_weight_4HK.t())
        ).view(steps, batch, 4 * cells)
        recurrent_H4H = (hidden_weight_4HH.t() / scale).contiguous()
        codes_TBH = x_TBK.new_empty(steps + 1, batch, cells)
        cells_TBH, squashed_TBH = torch.empty_like(codes_TBH), x_TBK.new_empty(steps, batch, cells)
        torch.mul(hidden_BH, scale, out=codes_TBH[0])
        cells_TBH[0] = cell_BH
        codes = None if largest_code is None else Codes(largest_code, scale, clamped=bound_1 is not None)
        run_forward(gates_TB4H, recurrent_H4H, codes_TBH, cells_TBH, squashed_TBH, codes)
        hidden_TBH = codes_TBH / scale
        hidden_TBH[0] = hidden_BH  # as it was given, whatever scaling up and down makes of it
        ctx.save_for_backward(
            x_TBK, input_weight_4HK, hidden_weight_4HH, gates_TB4H, hidden_TBH, cells_TBH, squashed_TBH, bound_1
        )
        ctx.has_bias, ctx.residual = bias_4H is not None, residual
        return hidden_TBH[1:].clone(), hidden_TBH[-1].clone(), cells_TBH[-1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_TBK, input_weight_4HK, hidden_weight_4HH, gates_TB4H, hidden_TBH, cells_TBH, squashed_TBH, bound_1 = (
            ctx.saved_tensors
        )
        output_TBH, last_hidden_BH, last_cell_BH = gradients
        steps, batch, inputs = x_TBK.shape
        delta_TBH = output_TBH.clone(memory_format=torch.contiguous_format)
        delta_TBH[-1] += last_hidden_BH
        local_TB4H, to_cell_TBH = local_derivatives(gates_TB4H, cells_TBH, squashed_TBH)
        by_bound_TBH = None
        if bound_1 is not None:
            raw_TBH = gates_TB4H.chunk(4, dim=2)[3] * squashed_TBH
            inside_TBH, by_bound_TBH = bound_derivatives(raw_TBH, hidden_TBH[1:], bound_1, residual=ctx.residual)
            to_cell_TBH *= inside_TBH
            local_TB4H.chunk(4, dim=2)[3].mul_(inside_TBH)
        cell_BH = run_backward(gates_TB4H, hidden_weight_4HH, local_TB4H, to_cell_TBH, delta_TBH, last_cell_BH.clone())
        local_N4H, before_NH = local_TB4H.flatten(0, 1), hidden_TBH[:-1].flatten(0, 1)
        x_gradient = (local_N4H @ input_weight_4HK).view(steps, batch, inputs) if ctx.needs_input_grad[0] else None
        return (
            x_gradient,
            local_N4H.t() @ x_TBK.view(-1, inputs),
            local_N4H.t() @ before_NH,
            local_N4H.sum(0) if ctx.has_bias else None,
            local_TB4H[0] @ hidden_weight_4HH,
            cell_BH,
            None,
            None if by_bound_TBH is None else (delta_TBH * by_bound_TBH).sum().view(1),
            None,
        )


@dataclass(frozen=True, slots=True)
class Codes:
    """How a hidden state becomes a code."""

    largest: int
    scale: float  # codes per unit: n / a
    clamped: bool  # with a bound below 1 a code may exceed the largest


def run_forward(
    gates_TB4H: Tensor,
    recurrent_H4H: Tensor,
    codes_TBH: Tensor,
    cells_TBH: Tensor,
    squashed_TBH: Tensor,
    codes: Codes | None,
) -> None:
    """Turn pre-activations into gates in place; fill steps 1 ... T of codes and cell states, and tanh of the latter."""
    cells = codes_TBH.shape[2]
    sigmoids = zip(gates_TB4H[..., : 2 * cells].unbind(), gates_TB4H[..., 3 * cells :].unbind(), strict=True)
    split = zip(*(part.unbind() for part in gates_TB4H.split(cells, dim=2)), strict=True)
    states = zip(codes_TBH.unbind(), codes_TBH[1:].unbind(), cells_TBH.unbind(), cells_TBH[1:].unbind(), strict=False)
    steps = zip(gates_TB4H.unbind(), sigmoids, split, states, squashed_TBH.unbind(), strict=True)
    for gates, (entry_forget, exit_), (entry, forget, new, _), (before, code, old, cell), squashed in steps:
        torch.addmm(gates, before, recurrent_H4H, out=gates)
        entry_forget.sigmoid_()
        new.tanh_()
        exit_.sigmoid_()
        torch.mul(old, forget, out=cell).addcmul_(entry, new)
        torch.tanh(cell, out=squashed)
        torch.mul(exit_, squashed, out=code)
        if codes is not None:
            code.mul_(codes.scale).round_()
            if codes.clamped:
                code.clamp_(-codes.largest, codes.largest)


def local_derivatives(gates_TB4H: Tensor, cells_TBH: Tensor, squashed_TBH: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of all steps: (T, B, 4H) of c by i, f, g and of h by o, before their squashing; (T, B, H) of h by c."""
    entry, forget, new, exit_ = gates_TB4H.chunk(4, dim=2)
    local_TB4H = torch.empty_like(gates_TB4H)
    by_entry, by_forget, by_new, by_exit = local_TB4H.chunk(4, dim=2)
    torch.ops.aten.sigmoid_backward.grad_input(new, entry, grad_input=by_entry)  # g i (1 - i)
    torch.ops.aten.sigmoid_backward.grad_input(cells_TBH[:-1], forget, grad_input=by_forget)
    torch.ops.aten.tanh_backward.grad_input(entry, new, grad_input=by_new)  # i (1 - g^2)
    torch.ops.aten.sigmoid_backward.grad_input(squashed_TBH, exit_, grad_input=by_exit)
    return local_TB4H, torch.ops.aten.tanh_backward(exit_, squashed_TBH)


def bound_derivatives(raw_TBH: Tensor, hidden_TBH: Tensor, bound_1: Tensor, *, residual: bool) -> tuple[Tensor, Tensor]:
    """Derivatives of quantised hidden states by what was rounded, and by the bound, for all steps (T, B, H)."""
    inside_TBH = raw_TBH.abs() <= bound_1
    between_TBH = (hidden_TBH - raw_TBH) / bound_1 if residual else torch.zeros_like(raw_TBH)
    return inside_TBH, torch.where(inside_TBH, between_TBH, raw_TBH.sign())


def run_backward(
    gates_TB4H: Tensor,
    hidden_weight_4HH: Tensor,
    local_TB4H: Tensor,
    to_cell_TBH: Tensor,
    delta_TBH: Tensor,
    cell_BH: Tensor,
) -> Tensor:
    """Turn local derivatives into gradients of pre-activations in place; returns that of the first cell state.

    ``delta_TBH`` holds gradients of the outputs, and in the end those of all h; ``cell_BH``, overwritten, that of the last c.
    """
    batch, cells = cell_BH.shape
    by_gate = local_TB4H.view(-1, batch, 4, cells)
    steps = zip(
        delta_TBH.unbind(), to_cell_TBH.unbind(), local_TB4H.unbind(), by_gate[:, :, :3].unbind(),
        by_gate[:, :, 3].unbind(), gates_TB4H[..., cells : 2 * cells].unbind(), strict=True,
    )  # fmt: skip
    later: Tensor | None = None
    cell_B1H = cell_BH.unsqueeze(1)
    for delta, to_cell, gates, in_cell, at_exit, forget in reversed(list(steps)):
        if later is not None:
            delta.addmm_(later, hidden_weight_4HH)
        cell_BH.addcmul_(to_cell, delta)
        in_cell.mul_(cell_B1H)
        at_exit.mul_(delta)
        cell_BH.mul_(forget)
        later = gates
    return cell_BH


def lstm_sequence(
    x_TBK: Tensor,
    input_weight_4HK: Tensor,
    hidden_weight_4HH: Tensor,
    bias_4H: Tensor | None,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    *,
    largest_code: int | None,
    bound_1: Tensor | None = None,
    residual: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (T, B, H) of all steps, and the last hidden and cell states (B, H).

    Args:
        bias_4H: the sum of an LSTM's two biases; None: it has none.
        hidden_BH, cell_BH: initial states; not rounded.
        largest_code: n; None does not quantise the hidden state, which makes this an ordinary LSTM.
        bound_1: a, which is learned; None: 1.
        residual: PACT+ where true, else PACT.
    """
    outputs_TBH, last_hidden_BH, last_cell_BH = _LstmSequence.apply(
        x_TBK, input_weight_4HK, hidden_weight_4HH, bias_4H, hidden_BH, cell_BH, largest_code, bound_1, residual
    )
    return outputs_TBH, last_hidden_BH, last_cell_BH
