"""Whether a learner's state is worth a checkpoint: a run cannot go on from numbers that are not finite."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from asr.foreign.tensors import non_finite


def ailment(state: Mapping[str, Any]) -> str | None:
    """Why ``state`` (of ``Trainer.state_dict``) must not be saved, as a phrase after "learner N"; None if it is sound.

    Checks weights, buffers, and the state of the optimizer and the backend.
    """
    parts = ("model", "optimizer", "backend")
    bad = non_finite(dict(each for part in parts for each in _tensors(part, state[part])))
    return None if bad is None else f"holds numbers that are not finite, in {bad}"


def odd_one(checksums: Sequence[int]) -> tuple[int, str] | None:
    """A learner whose weights differ from those of most, and a phrase about it; None where all are equal.

    ``checksums``: of the weights, by rank. Of two learners nobody can tell which one is wrong.
    """
    common, times = Counter(checksums).most_common(1)[0]
    odd = [rank for rank, value in enumerate(checksums) if value != common]
    if not odd:
        return None
    doubt = "" if times > len(checksums) / 2 else ", or they than it"
    return odd[0], f"holds other weights than the rest{doubt}, which this scheme keeps equal"


def _tensors(name: str, value: object) -> Iterator[tuple[str, Tensor]]:
    """The tensors within nested containers, each with its path as its name."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _tensors(f"{name}.{key}", each)
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _tensors(f"{name}.{index}", each)
