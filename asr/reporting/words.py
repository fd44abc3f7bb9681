"""The words of the command line that made a run: ``dpsgd``, not ``DecentralisedSgd``.

A configuration names classes. A backend is the word of the file that its class lies in, an optimizer that of its function,
a hook that under which it is configured; docs/architecture.md has the rule.
"""

from collections.abc import Mapping
from typing import Any

TARGET = "._target_"


def target(config: Mapping[str, Any], node: str) -> str:
    """The dotted name of the class or function behind a node of a configuration; empty where it has none."""
    return str(config.get(f"{node}{TARGET}") or "")


def backend_word(config: Mapping[str, Any]) -> str:
    """The word of ``backend=``; empty where the configuration has no backend."""
    return file_word(target(config, "backend"))


def model_word(config: Mapping[str, Any]) -> str:
    """The kind of encoder, or of the whole model where it has none; empty where the configuration has no model."""
    return file_word(target(config, "model.encoder") or target(config, "model"))


def hook_words(config: Mapping[str, Any]) -> list[str]:
    """The words of ``hooks=[...]``, in their order."""
    return [
        key.split(".")[1] for key in config if key.startswith("hooks.") and key.endswith(TARGET) and key.count(".") == 2
    ]


def file_word(dotted: str) -> str:
    """The file in which a class lies: ``dpsgd`` of ``distributed.schemes.dpsgd.DecentralisedSgd``."""
    parts = dotted.split(".")
    return parts[-2] if len(parts) > 1 else dotted


def setting(key: str, value: Any) -> tuple[str, str]:
    """A key of the configuration and its value as they are typed: ``backend`` and ``dpsgd``."""
    if not key.endswith(TARGET):
        return key, str(value)
    group = key.removesuffix(TARGET)
    return group, file_word(str(value)) if group.split(".")[0] in ("backend", "model") else str(value).rsplit(".", 1)[
        -1
    ]
