"""Settings that came after runs had been trained: what those had in effect, so that they are read, and go on, as before.

Only settings whose value leaves everything as it was before they existed belong here; of any other the user has to say what a run had.
"""

from functools import cache
from typing import Any

from asr.data.fsdd import FsddConnected
from asr.foreign.yaml_text import read_yaml
from scripts.composition.compose import CONF
from scripts.composition.settings import TrainSettings

_RECOGNISER = f"{TrainSettings.__module__}.{TrainSettings.__name__}"
_DIGITS = f"{FsddConnected.__module__}.{FsddConnected.__name__}"


def with_later_settings(content: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration, with those that it lacks: no fold of training is left out, and digits have no language."""
    if content.get("_target_") == _RECOGNISER:
        content = {"fold": _whole_set()} | content
    data = content.get("data")
    if isinstance(data, dict) and data.get("_target_") == _DIGITS:
        content = content | {"data": {"language": None} | data}
    return content


def without_later_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a checkpoint records, by dotted key, without those that have no effect: earlier ones do not say so."""
    idle = [key for key in settings if key == "data.language" and settings[key] is None]
    if settings.get("fold.leave_out") is None:
        idle += [key for key in settings if key.startswith("fold.")]
    return {key: value for key, value in settings.items() if key not in idle}


@cache
def _whole_set() -> Any:
    """The node ``fold`` as conf/ has it, which leaves nothing out."""
    return read_yaml(CONF / "train.yaml")["fold"]
