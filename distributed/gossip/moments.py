"""The moments of an optimizer, moved into flat buffers so that they can be mixed like weights.

A moment is a floating tensor that the optimizer keeps for every parameter, of the parameter's shape and dtype: Adam's
``exp_avg`` and ``exp_avg_sq``, SGD's ``momentum_buffer``. Step counters are none. Optimizers update them in place, so
that the views stay where they are.
"""

import torch
from torch import Tensor
from torch.optim import Optimizer

from distributed.errors import UsageError
from distributed.parameters.flat_parameters import FlatParameters

SQUARES = frozenset({"exp_avg_sq", "max_exp_avg_sq", "second", "square_avg", "sum"})
"""Names of moments that are never negative: Adam's, LAMB's, RMSprop's, Adagrad's."""


class NoMomentsError(UsageError):
    """Moments are to be mixed, and the optimizer keeps none."""


def moment_names(optimizer: Optimizer) -> list[str]:
    """Names of the optimizer's moments; empty before its first step, and where it keeps none."""
    states = [(parameter, state) for parameter, state in optimizer.state.items() if state]
    names = sorted({name for _, state in states for name in state})
    return [name for name in names if all(_is_moment(parameter, state.get(name)) for parameter, state in states)]


def has_all_moments(optimizer: Optimizer) -> bool:
    """Whether every trained parameter has its moments: moments made later would lie outside the flat buffers."""
    trained = (p for group in optimizer.param_groups for p in group["params"] if p.requires_grad)
    return bool(moment_names(optimizer)) and all(optimizer.state.get(parameter) for parameter in trained)


def flatten_moments(optimizer: Optimizer, flat: FlatParameters) -> dict[str, list[Tensor]]:
    """Move every moment into buffers laid out like ``flat.flat``; returns these, by the moment's name.

    To be called once ``has_all_moments``. A parameter without moments, as a frozen one, has zeros there.
    """
    moved = {}
    for name in moment_names(optimizer):
        buffers = [torch.zeros_like(buffer) for buffer in flat.flat]
        for parameter, view in flat.views_of(buffers):
            state = optimizer.state.get(parameter)
            if state:
                view.copy_(state[name])
                state[name] = view
        moved[name] = buffers
    return moved


def require_moments(optimizer: Optimizer) -> None:
    """Raise NoMomentsError if the optimizer, which has made a step, keeps no moments that could be mixed."""
    if not moment_names(optimizer):
        raise NoMomentsError(
            f"backend.mix_moments=true, but the optimizer ({type(optimizer).__name__}) keeps no moments; "
            "give it momentum (optimizer.momentum above 0, or optimizer=adamw) or set backend.mix_moments=false"
        )


def _is_moment(parameter: Tensor, value: object) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.dtype == parameter.dtype
