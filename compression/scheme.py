"""Treatments by patterns of module names: the first pattern that matches decides, and one that matches nothing is refused.

scheme:
- {modules: "encoder.layers.0.*", bits: null}       # full precision
- {modules: "joiner.*", bits: 8}
- {modules: "*"}                                    # as the defaults beside the scheme say
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from asr.parts import refusal, typed
from distributed.errors import UsageError
from distributed.parameters.patterns import settings_by_pattern

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Treatment = TypeVar("Treatment", bound="DataclassInstance")
PATTERN = "modules"


@contextmanager
def named(where: str) -> Iterator[None]:
    """Within: a UsageError begins with ``where``, the setting that the user knows."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{where}{error}") from None


def treatments(
    scheme: Sequence[Mapping[str, Any]], kind: type[Treatment], defaults: Mapping[str, Any], key: str
) -> list[tuple[str, Treatment]]:
    """The patterns with the treatment of each: its entry of the scheme over the defaults, as the dataclass ``kind``.

    Raises:
        UsageError: an entry names no pattern, an unknown setting, or a value that is not allowed; it names ``key``.
    """
    made = []
    fields = {each.name: each.type for each in dataclasses.fields(kind)}
    for place, entry in enumerate(scheme):
        where = f"{key}[{place}]"
        if not isinstance(entry.get(PATTERN), str):
            raise UsageError(f"{where}: names no {PATTERN}; give a pattern of module names, such as encoder.*")
        unknown = entry.keys() - fields.keys() - {PATTERN}
        if unknown:
            raise UsageError(f"{where}: unknown setting {', '.join(sorted(unknown))}; it may have {', '.join(fields)}")
        settings = {**defaults, **{name: value for name, value in entry.items() if name != PATTERN}}
        for name, value in settings.items():
            allowed = refusal(value, fields[name])
            if allowed is not None:
                raise UsageError(f"{where}.{name}={typed(value)}: must be {allowed}")
        made.append((entry[PATTERN], kind(**settings)))
    return made


def treated(patterns: Sequence[tuple[str, Treatment]], names: Sequence[str], key: str) -> dict[str, Treatment]:
    """The treatment of each module that a pattern matches; UsageError where a pattern matches none."""
    return settings_by_pattern(patterns, {name: [name] for name in names}, key=key, kind="module that can be treated")
