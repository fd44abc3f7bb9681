"""Frames with their neighbours: regression deltas as Kaldi computes them, and stacking.

A delta is the slope of the regression line through ``2 x WINDOW + 1`` frames (Furui 1986; Kaldi's add-deltas):

    d_t = sum_n n (x_{t+n} - x_{t-n}) / (2 sum_n n^2)      n = 1 ... WINDOW

and a double delta is the delta of the deltas. Frames before the first are the first, those after the last the last;
as in Kaldi this padding holds for x alone: deltas beyond the ends are 0 and do not repeat the outermost delta.

T frames   F dimension   ... leading axes
"""

import torch
from torch import Tensor
from torch.nn import functional

WINDOW = 2  # frames on either side, as in every recipe


def slopes(x_TF: Tensor) -> Tensor:
    """(T, F) to (T - 2 x WINDOW, F): deltas of the frames that have all their neighbours."""
    frames = x_TF.shape[0] - 2 * WINDOW
    total_TF = torch.zeros_like(x_TF[:frames])
    for n in range(1, WINDOW + 1):
        later_TF = x_TF[WINDOW + n : WINDOW + n + frames]
        earlier_TF = x_TF[WINDOW - n : WINDOW - n + frames]
        total_TF = total_TF + n * (later_TF - earlier_TF)
    return total_TF / (2 * sum(n * n for n in range(1, WINDOW + 1)))


def with_deltas(x_TF: Tensor, orders: int) -> Tensor:
    """(T, F) to (T, (1 + orders) x F): the frames, their deltas, the deltas of those and so on, side by side."""
    if orders == 0 or x_TF.shape[0] == 0:
        return x_TF.repeat(1, 1 + orders)
    reach = WINDOW * orders
    return deltas_within(torch.cat([x_TF[:1].expand(reach, -1), x_TF, x_TF[-1:].expand(reach, -1)]), orders)


def deltas_within(wide_TF: Tensor, orders: int) -> Tensor:
    """As ``with_deltas`` of the frames that have WINDOW x ``orders`` neighbours on either side."""
    frames, reach = wide_TF.shape[0] - 2 * WINDOW * orders, WINDOW * orders
    parts = [wide_TF[reach : reach + frames]]
    for order in range(1, orders + 1):
        wide_TF = slopes(wide_TF)
        margin = WINDOW * (orders - order)
        parts.append(wide_TF[margin : margin + frames])
    return torch.cat(parts, dim=1)


def stack_frames(x_TF: Tensor, stack: int) -> Tensor:
    """(..., T, F) to (..., ceil(T / stack), stack x F), consecutive frames side by side; zeros fill up the last."""
    filled_TF = functional.pad(x_TF, (0, 0, 0, -x_TF.shape[-2] % stack))
    return filled_TF.unflatten(-2, (-1, stack)).flatten(-2)
