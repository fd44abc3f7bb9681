"""Settings by patterns of names, such as rates of parameters: the first pattern that matches a name decides."""

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from distributed.errors import UsageError

Setting = TypeVar("Setting")
SHOWN = 6  # names in an error


def settings_by_pattern(
    patterns: Sequence[tuple[str, Setting]], names: Mapping[str, Collection[str]], *, key: str, kind: str
) -> dict[str, Setting]:
    """The setting of each named thing by the first shell-like pattern that matches it; without those that none matches.

    Args:
        names: all names of each thing, by the one that the result gives it: a tied parameter has several.
        key: of the configuration, which errors name.
        kind: what the things are, in errors.

    Raises:
        UsageError: a pattern matches nothing, as a misspelt one would.
    """
    for pattern, _ in patterns:
        if not any(fnmatchcase(name, pattern) for own in names.values() for name in own):
            there = ", ".join([*list(names)[:SHOWN], *(["..."] if len(names) > SHOWN else [])]) or "none"
            raise UsageError(
                f"{key}: {pattern!r} matches no {kind} of the model, which has {there}; correct the pattern or leave it out"
            )
    found = {}
    for name, own in names.items():
        matching = (setting for pattern, setting in patterns if any(fnmatchcase(each, pattern) for each in own))
        for setting in matching:
            found[name] = setting
            break
    return found
