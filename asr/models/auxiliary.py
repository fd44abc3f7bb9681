"""Which entries of a model are those of modules that only train with it: they lie below ``model.auxiliary``."""

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")
NAME = "auxiliary"


def without_auxiliaries(named: Mapping[str, Value]) -> dict[str, Value]:
    """The entries of the model itself, of its state or of its named parameters."""
    return {name: value for name, value in named.items() if not name.startswith(f"{NAME}.")}


def auxiliaries_alone(named: Mapping[str, Value]) -> dict[str, Value]:
    """The entries of the modules that train with the model."""
    return {name: value for name, value in named.items() if name.startswith(f"{NAME}.")}
