"""The configuration of a run folder: read back, and checked like a fresh one.

Settings that came after a run was trained are added where their value leaves everything as it was before they existed; of any
other the user has to say what the run had.
"""

from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from asr.data.fsdd import FsddConnected
from asr.foreign.files import ForeignError
from asr.foreign.yaml_text import read_yaml
from asr.parts import validate
from asr.runs.run_folder import RunFolder
from distributed.errors import UsageError
from scripts.composition import settings as settings_module
from scripts.composition.compose import CONF, SEVERAL
from scripts.composition.settings import RunSettings, TrainSettings, settings_of_run

_RECOGNISER = f"{TrainSettings.__module__}.{TrainSettings.__name__}"
_DIGITS = f"{FsddConnected.__module__}.{FsddConnected.__name__}"


def load_run_config(run: Path, settings: type[RunSettings] | None = TrainSettings, key: str = "run") -> DictConfig:
    """The configuration that a run folder was trained with, checked like a fresh one; errors call the folder ``key``.

    ``settings`` is the kind of run that is needed; None: any kind will do.

    Raises:
        UsageError: the folder holds no run, or one of another kind than ``settings``, or its configuration is damaged,
            names code outside this project, or lacks a setting that a part has got since.
    """
    path = RunFolder(run).config
    if not path.is_file():
        raise UsageError(f"{key}={run}: no {path.name} there; give the folder of a run, such as exp/demo")
    config = read_config(path)
    validate(config, settings_module.__name__)
    found = settings_of_run(config)
    settings = settings or found or TrainSettings
    if found is not None and found is not settings:
        raise UsageError(
            f"{key}={run}: a run of scripts/{found.script}, where one of scripts/{settings.script} is needed"
        )
    needed = {"_target_", *(field.name for field in fields(settings))} - set(SEVERAL)
    missing = sorted(needed - set(map(str, config)))
    if missing:
        raise UsageError(f"{path}: {', '.join(missing)} missing; it is written when a run starts, and not to be edited")
    _refuse_earlier_version(config, path)
    return config


def read_config(path: Path) -> DictConfig:
    """Read the resolved configuration that a run has written. It may be foreign: interpolations are not resolved.

    Settings that came later are added, where what the run had in effect is known.

    Raises:
        ForeignError: it cannot be read, or holds what no run writes.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ForeignError(path, "not a configuration")
    return OmegaConf.create(with_later_settings(content))


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
    return yaml.safe_load((CONF / "train.yaml").read_text(encoding="utf-8"))["fold"]


def _refuse_earlier_version(config: DictConfig, path: Path) -> None:
    """Refuse a run trained before a part got a new setting: the user has to say which value the run had in effect."""
    for where, node in _parts(OmegaConf.to_container(config)):
        if missing := sorted(_settings_in_conf().get(node["_target_"], frozenset()) - node.keys()):
            names = ", ".join(f"{where}.{key}" for key in missing)
            raise UsageError(
                f"{path}: {names} missing, which an earlier version of this program did not have; "
                f"add it there, as conf/{where.split('.')[0]} explains it"
            )


def _parts(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node with a ``_target_`` below the top level, and where it stands."""
    if isinstance(node, dict):
        if path and "_target_" in node:
            yield path, node
        for key, child in node.items():
            yield from _parts(child, f"{path}.{key}" if path else str(key))


@cache
def _settings_in_conf() -> dict[str, frozenset[str]]:
    """The keys that every option of conf/ gives a part, by its ``_target_``."""
    found: dict[str, frozenset[str]] = {}
    for file in CONF.rglob("*.yaml"):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        for _, node in _parts(content, file.stem):
            keys, target = frozenset(node) - {"defaults"}, node["_target_"]
            found[target] = found.get(target, keys) & keys
    return found
