"""Whether a learner's state is worth a checkpoint: a run cannot go on from numbers that are not finite."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from asr.foreign.tensors import NAMED


def ailment(state: Mapping[str, Any]) -> str | None:
    """Why ``state`` (of ``Trainer.state_dict``) must not be saved, as a phrase after "learner N"; None if it is sound.

    Checks weights, buffers, and the state of the optimizer and the backend.
    """
    bad = [name for part in ("model", "optimizer", "backend") for name in _not_finite(part, state[part])]
    if bad:
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        return f"holds numbers that are not finite, in {', '.join(bad[:NAMED])}{more}"
    return None


def _not_finite(name: str, value: object) -> Iterator[str]:
    """Names of the floating tensors within nested containers that hold a NaN or an infinity."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and not bool(value.isfinite().all()):
            yield name
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _not_finite(f"{name}.{key}", each)
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _not_finite(f"{name}.{index}", each)
