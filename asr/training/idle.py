"""Idle groups: parameters that some steps leave unchanged, without gradient, decay or update of their moments."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from asr.runs.progress import Progress
from asr.training.hook import ParameterGroup


class IdleGroups:
    """Finds the parameters that a step leaves unchanged, from the ``idle`` rules of hooks' groups."""

    def __init__(self, model: nn.Module, groups: Sequence[ParameterGroup]) -> None:
        self._groups = [
            (group.idle, [model.get_parameter(name) for name in group.names])
            for group in groups
            if group.idle is not None
        ]

    def at(self, progress: Progress) -> list[nn.Parameter]:
        """The parameters that the step after ``progress`` leaves unchanged."""
        return [each for idle, parameters in self._groups if idle(progress) for each in parameters]


@torch.no_grad()
def drop_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Zero the gradients of some parameters in place."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.zero_()


@contextmanager
def left_alone(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Wraps the optimizer's step: it finds no gradients of ``parameters``, and so does not update them."""
    gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
