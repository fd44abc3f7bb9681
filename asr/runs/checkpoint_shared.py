"""What all learners of a checkpoint hold alike is stored once: entries of model and optimizer, compared by checksum.

    model.safetensors, auxiliary.safetensors   weights of the consensus model
    shared.pt                                  what all learners hold bitwise alike and the consensus does not hold
    learner-0.pt ...                           everything else

In synchronous schemes all weights and moments are equal; running statistics of normalisations are not. An entry is a
leaf of the nested state, named by the keys that lead to it.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any

import torch
from torch import Tensor

from distributed.learners.world import World

SHARED = "shared.pt"
PARTS = ("model", "optimizer")  # those of a learner's state that may be equal on all learners

Keys = tuple[str | int, ...]  # that lead to an entry
State = Mapping[Any, Any]


def divided(state: State, world: World, consensus: State | None) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """A learner's state as (what is its own, what all learners hold alike without ``consensus``); collective.

    ``consensus`` is read on learner 0, which stores the second part. ``joined`` puts the parts together again.
    """
    parts = {part: state[part] for part in PARTS if part in state}
    alike = _held_by_all(parts, world)
    own = _selected(state, lambda path, _: path not in alike)
    held = consensus or {}
    shared = _selected(
        parts,
        lambda path, value: path in alike and not (path[0] == "model" and _same_bytes(value, held.get(path[-1]))),
    )
    return own, shared


def joined(*parts: State) -> dict[Any, Any]:
    """Nested mappings put together; of an entry that several have the last one counts."""
    result: dict[Any, Any] = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = joined(result[key], value) if both else value
    return result


def _held_by_all(state: State, world: World) -> Set[Keys]:
    """The entries that are bitwise the same on all learners; none where learners have other entries than learner 0."""
    if world.size == 1:
        return {path for path, _ in _entries(state)}
    checksums = {path: _checksum(value) for path, value in _entries(state)}
    paths = sorted(checksums, key=repr)
    if len(set(world.gather(_checksum(paths)))) > 1:
        return set()
    own = torch.tensor([checksums[path] for path in paths], dtype=torch.int64)
    differing = world.all_reduce_sum((own != world.broadcast(own.clone(), source=0)).long())
    return {path for path, number in zip(paths, differing.tolist(), strict=True) if number == 0}


def _entries(value: State, path: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    for key, each in value.items():
        if isinstance(each, Mapping) and each:
            yield from _entries(each, (*path, key))
        else:
            yield (*path, key), each


def _selected(state: State, chosen: Callable[[Keys, Any], bool], path: Keys = ()) -> dict[Any, Any]:
    """The entries for which ``chosen(path, value)`` holds, nested as they were; mappings of none are left out."""
    result: dict[Any, Any] = {}
    for key, value in state.items():
        if isinstance(value, Mapping) and value:
            if within := _selected(value, chosen, (*path, key)):
                result[key] = within
        elif chosen((*path, key), value):
            result[key] = value
    return result


def _checksum(value: object) -> int:
    """An integer of 61 bits from the SHA-256 of a value's bytes; equal values of plain types and tensors have equal ones."""
    digest = hashlib.sha256()
    _add(digest, value)
    return int.from_bytes(digest.digest()[:8], "big") >> 3


def _add(digest: "hashlib._Hash", value: object) -> None:
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(_bytes(value).numpy().data)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            digest.update(f"{key!r}:".encode())
            _add(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"{len(value)} of".encode())
        for each in value:
            _add(digest, each)
    else:
        digest.update(f"{value!r};".encode())


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _same_bytes(one: object, other: object) -> bool:
    return (
        isinstance(one, Tensor)
        and isinstance(other, Tensor)
        and (one.dtype, one.shape) == (other.dtype, other.shape)
        and torch.equal(_bytes(one), _bytes(other))
    )
