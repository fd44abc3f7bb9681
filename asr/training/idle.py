"""Groups of parameters that some steps leave exactly as they are: neither gradient, nor decay, nor moments touch them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from asr.runs.progress import Progress
from asr.training.hook import ParameterGroup


class IdleGroups:
    """Which parameters a step leaves alone, as hooks' groups say."""

    def __init__(self, model: nn.Module, groups: Sequence[ParameterGroup]) -> None:
        self._groups = [
            (group.idle, [model.get_parameter(name) for name in group.names])
            for group in groups
            if group.idle is not None
        ]

    def at(self, progress: Progress) -> list[nn.Parameter]:
        """Those that the step that follows ``progress`` leaves alone."""
        return [each for idle, parameters in self._groups if idle(progress) for each in parameters]


@torch.no_grad()
def drop_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Zero the gradients of some parameters where they lie."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.zero_()


@contextmanager
def left_alone(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Around an optimizer's step: it sees no gradient of these, and so does not touch them."""
    gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
