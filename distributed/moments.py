"""The moments of an optimizer, moved into flat buffers so that they can be mixed like weights.

A moment is a floating tensor that the optimizer keeps for every parameter, of the parameter's shape and dtype: Adam's
``exp_avg`` and ``exp_avg_sq``, SGD's ``momentum_buffer``. Step counters are none. Optimizers update them in place, so
that the views stay where they are.
"""

import torch
from torch import Tensor
from torch.optim import Optimizer

from distributed.flat_parameters import FlatParameters


def moment_names(optimizer: Optimizer) -> list[str]:
    """Names of the optimizer's moments; empty before its first step, and where it keeps none."""
    states = [(parameter, state) for parameter, state in optimizer.state.items() if state]
    names = sorted({name for _, state in states for name in state})
    return [name for name in names if all(_is_moment(parameter, state.get(name)) for parameter, state in states)]


def flatten_moments(optimizer: Optimizer, flat: FlatParameters) -> list[Tensor]:
    """Move every moment into buffers laid out like ``flat.flat``; returns these, for one moment after the other."""
    moved = []
    for name in moment_names(optimizer):
        buffers = [torch.zeros_like(buffer) for buffer in flat.flat]
        for parameter, view in flat.views_of(buffers):
            state = optimizer.state.get(parameter)
            if state:
                view.copy_(state[name])
                state[name] = view
        moved += buffers
    return moved


def _is_moment(parameter: Tensor, value: object) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.dtype == parameter.dtype
