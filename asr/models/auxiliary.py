"""Separates a model's own entries from those of auxiliary modules, which only train with it (``model.auxiliary``)."""

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")
NAME = "auxiliary"


def without_auxiliaries(named: Mapping[str, Value]) -> dict[str, Value]:
    """The entries (of a state or of named parameters) that belong to the model itself."""
    return {name: value for name, value in named.items() if not name.startswith(f"{NAME}.")}


def auxiliaries_alone(named: Mapping[str, Value]) -> dict[str, Value]:
    """The entries that belong to the auxiliary modules."""
    return {name: value for name, value in named.items() if name.startswith(f"{NAME}.")}
