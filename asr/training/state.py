"""Copies of a run's state: to write down, and to put back after trials that must leave no trace."""

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from asr.training.hook import Hook


def copied(value: Any) -> Any:
    """A copy of nested containers, with their tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(item) for item in value)
    return value


@contextmanager
def untouched(model: nn.Module, hooks: Mapping[str, Hook], device: torch.device) -> Iterator[None]:
    """Restores buffers, hook states and generators on leaving."""
    states = {name: copy.deepcopy(hook.state_dict()) for name, hook in hooks.items()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    for name, hook in hooks.items():
        hook.load_state_dict(states[name])


@contextmanager
def gradients_dropped(model: nn.Module) -> Iterator[None]:
    """Drops the gradients made inside: on leaving, parameters have the gradient tensors of before, zeroed."""
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    yield
    for parameter, gradient in gradients:
        parameter.grad = None if gradient is None else gradient.zero_()


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """The parameters that an optimizer updates."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@contextmanager
def weights_restored(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Restores parameters on leaving, bitwise; they are kept on the host meanwhile."""
    kept = [parameter.detach().to("cpu", copy=True) for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)


@contextmanager
def update_taken_back(optimizer: Optimizer) -> Iterator[None]:
    """Restores weights and the optimizer's state on leaving; inside, that state starts empty."""
    state, optimizer.state = optimizer.state, defaultdict(dict)
    with weights_restored(parameters_of(optimizer)):
        yield
    optimizer.state = state


def state_bytes(state: Mapping[Any, Mapping[str, Any]]) -> int:
    """Size of the tensors in an optimizer's state, in bytes."""
    return sum(value.nbytes for each in state.values() for value in each.values() if isinstance(value, Tensor))
