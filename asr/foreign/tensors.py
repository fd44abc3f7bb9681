"""Weights that may come from anywhere: safetensors files, which hold no code, and learners' states read without any."""

import math
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from asr.foreign.files import ForeignError, Kind, opened

TENSORS = Kind("file of weights", 1 << 40)
NAMED = 3  # most tensors that an error names


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        ForeignError: it is no such file, or damaged.
    """
    with _reading(path):
        return load_file(path)


def read_sizes(path: Path) -> dict[str, int]:
    """Number of elements of each tensor of a safetensors file, of which only the header is read.

    Raises:
        ForeignError: it is no such file, or damaged.
    """
    with _reading(path), safe_open(path, framework="pt") as tensors:
        return {name: math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 (it is no mapping)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Inside, whatever safetensors raises of a file is one error of one line."""
    with opened(path, TENSORS):
        pass  # a regular file: it is read by its name
    try:
        yield
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise ForeignError(path, f"cannot be read: {' '.join(str(error).split())}") from None


def read_state(path: Path, device: torch.device, *, mmap: bool = False) -> dict[str, Any]:
    """Read a learner's state that torch.save wrote; no code in it is executed.

    Raises:
        ForeignError: it is no such file, or damaged, or would need code.
    """
    with opened(path, TENSORS):
        pass
    try:
        state = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except (pickle.UnpicklingError, OSError, EOFError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise ForeignError(path, f"cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(state, dict):
        raise ForeignError(path, f"must hold a learner's state, got {type(state).__name__}")
    return state


def refuse_non_finite(tensors: Mapping[str, Tensor], where: object) -> None:
    """Raise ForeignError if a number is NaN or infinite: a model with one writes nonsense without any error."""
    if bad := non_finite(dict(sorted(tensors.items()))):
        raise ForeignError(
            where, f"NaN or infinite weights in {bad}, of {len(tensors)} tensors; choose another checkpoint or model"
        )


def non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The names of the tensors that hold a NaN or an infinity, the first few of many; None if all are finite."""
    bad = [name for name, each in tensors.items() if each.is_floating_point() and not bool(each.isfinite().all())]
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return ", ".join(bad[:NAMED]) + more or None
