"""Checks that weights fit a model's description without allocating the model: it is built on the device meta.

A model folder may come from anywhere, and a few digits in its description can ask for more than a machine holds.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from distributed.errors import UsageError

Model = TypeVar("Model", bound=nn.Module)
Shapes = Mapping[str, tuple[int, ...]]

PER_WEIGHT, ALWAYS = 4, 100  # a model may register 4 parameters per weight, and 100: transforms replace some


class _TooManyError(Exception):
    """A model registers far more parameters than there are weights."""


def shapes_in(path: Path) -> Shapes:
    """Names and shapes of the tensors of a safetensors file, of which its header alone is read; UsageError if it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None


def built_on_meta(build: Callable[[], Model], largest: int | None = None) -> Model:
    """Build the model on the device meta; with ``largest``, refuse one that registers many more parameters.

    Raises:
        UsageError: it cannot be built, in one line.
    """
    try:
        with torch.device("meta"), _counting(largest):
            return build()
    except UsageError:
        raise
    except _TooManyError:
        raise UsageError(f"it has many more parameters than the {largest} weights that are there") from None
    except (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise UsageError(f"it cannot be built: {' '.join(str(error).split())[:300]}") from None


def refuse_misfit(build: Callable[[], nn.Module], weights: Shapes, where: str) -> None:
    """Raise UsageError, one line that begins with ``where``, unless ``weights`` fit the model that ``build`` makes."""
    try:
        state = built_on_meta(build, len(weights)).state_dict()
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    needed = {name: tuple(tensor.shape) for name, tensor in state.items()}
    differing = sorted(name for name in needed | dict(weights) if needed.get(name) != weights.get(name))
    if differing:
        name, more = differing[0], f", and {len(differing) - 1} more differ" if len(differing) > 1 else ""
        there, described = weights.get(name, "missing"), needed.get(name, "missing")
        raise UsageError(f"{where}: {name} is {there} among the weights and {described} by the description{more}")


@contextmanager
def _counting(largest: int | None) -> Iterator[None]:
    """Inside, raise _TooManyError when this thread registers more parameters than ``largest`` weights can need."""
    if largest is None:
        yield
        return
    left, own = [PER_WEIGHT * largest + ALWAYS], threading.get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        if threading.get_ident() == own:
            left[0] -= 1
            if left[0] < 0:
                raise _TooManyError

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
