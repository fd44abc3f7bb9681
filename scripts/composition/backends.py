"""A backend with the settings of its YAML and no run around it, for benchmarks and tests."""

import copy
from functools import cache
from threading import Lock
from typing import Any

from asr.parts import build, plain
from distributed.base import FlatBackend
from distributed.learners.world import World
from scripts.composition.compose import compose

_composing = Lock()  # Hydra composes in one thread at a time; learners of tests are threads


@cache
def _settings(word: str) -> dict[str, Any]:
    settings: dict[str, Any] = plain(compose("train", [f"backend={word}", "seed=1"]).backend)
    return settings


def settings_of(word: str, **changes: Any) -> dict[str, Any]:
    """What ``conf/backend/<word>.yaml`` says, of seed 1, with changes; KeyError for a key that it has not."""
    with _composing:
        settings = copy.deepcopy(_settings(word))
    if unknown := changes.keys() - settings.keys():
        raise KeyError(f"backend={word} has no {', '.join(sorted(unknown))}, but {', '.join(sorted(settings))}")
    return settings | changes


def arguments_of(word: str, **changes: Any) -> dict[str, Any]:
    """The same as arguments of the backend's class, or of one derived from it; its ``world`` is not among them."""
    return {key: value for key, value in settings_of(word, **changes).items() if key != "_target_"}


def build_backend(word: str, world: World, **changes: Any) -> Any:
    """The backend of that word, a ``FlatBackend``; what its YAML says is changed by ``changes``."""
    backend = build(settings_of(word, **changes), world=world)
    assert isinstance(backend, FlatBackend)
    return backend
