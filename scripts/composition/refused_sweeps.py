"""Refuses Hydra's sweeps (several values for a key, or ``-m``) with what to type instead: scripts/sweep.py, or a loop of the shell."""

import re
import shlex
from collections.abc import Callable, Collection, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from distributed.errors import UsageError

FLAGS = ("-m", "--multirun")
NAMED = ("train", "train_lm")  # entry points of which each run has a name


def refuse_sweeps(
    config_name: str, arguments: Sequence[str], single: Collection[str], check_key: Callable[[str], None]
) -> None:
    """Refuse several values for a key, and the flag ``-m``; ``single``: keys whose value is no list.

    ``check_key`` raises UsageError for an unknown key, over which a loop would fail.

    Raises:
        UsageError: the line ends with a command, or a loop of the shell, that does what was meant.
        OverrideParseException: an argument is no override.
    """
    flags = [each for each in arguments if each in FLAGS]
    parsed = OverridesParser.create().parse_overrides([each for each in arguments if each not in FLAGS])
    sweeps = [override for override in parsed if override.is_sweep_override()]
    if sweeps:
        (key, values), listed = _values(sweeps[0]), ""
        if not sweeps[0].is_add():
            check_key(key)
        if sweeps[0].is_choice_sweep() and key not in single:
            listed = f" (a list is written '{key}=[{','.join(values)}]')"
        raise UsageError(
            f"{sweeps[0].input_line}: {_instead(config_name, key, values, str(sweeps[0].input_line))}{listed}"
        )
    if flags:
        raise UsageError(f"{flags[0]}: {_instead(config_name, 'key', ['A', 'B'], 'key=A,B')}")


def _values(override: Override) -> tuple[str, list[str]]:
    try:
        return str(override.key_or_group), list(override.sweep_string_iterator())
    except HydraException:  # an interval or a pattern has none
        return str(override.key_or_group), ["A", "B"]


def _instead(config_name: str, key: str, values: Sequence[str], written: str) -> str:
    if config_name in NAMED and key != "name":
        command = f"python scripts/sweep.py name=my-sweep {config_name} ... {shlex.quote(written)}"
        return f"one command is one run; several are tried with {command}"
    variable = re.sub(r"\W", "_", re.split(r"[./]", key)[-1])
    command = f"python scripts/{config_name}.py ... {key}=${variable}"
    return (
        f"one command is one run; let the shell repeat it: for {variable} in {shlex.join(values)}; do {command}; done"
    )
