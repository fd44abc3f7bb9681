"""The configuration of a run folder: read back, and checked like a fresh one."""

from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from asr.foreign.files import ForeignError
from asr.foreign.yaml_text import read_yaml
from asr.parts import validate
from asr.runs.run_folder import RunFolder
from distributed.errors import UsageError
from scripts.composition import settings as settings_module
from scripts.composition.compose import CONF, SEVERAL
from scripts.composition.later_settings import with_later_settings
from scripts.composition.settings import RunSettings, TrainSettings, settings_of_run


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
