"""Compositions for tests: Hydra composes each choice of options once per process, and values are put into a copy of that.

Hydra takes some 0.2 s of a core for a configuration, most of it for its lists of defaults, and parses each argument four times; tests
compose thousands, which differ by values. What is refused, resolved and checked is done each time. An entry point that tests fork
takes what its command line chooses from the process that starts it. The tests of compositions themselves, and learners that launchers
start, have Hydra itself; test_compose.py compares the two.
"""

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from unittest import mock

import hydra
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from scripts.composition.compose import CONF

BY_HYDRA = hydra.compose
PARSED_BY_HYDRA = OverridesParser.parse_overrides
_kept: dict[tuple[str, ...], DictConfig] = {}
_parsed: dict[str, Override] = {}


class _Repository(CachingConfigRepository):
    """What Hydra reads is kept for all compositions, each of which gets its own, as it writes into what it has read."""

    read: ClassVar[dict[str, ConfigResult | None]] = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        """The same as ``CachingConfigRepository.load_config``."""
        if f"config_path={config_path}" in self.cache:
            return super().load_config(config_path)
        if config_path in self.read:
            self.cache[f"config_path={config_path}"] = copy.deepcopy(self.read[config_path])
        found = super().load_config(config_path)
        if config_path not in self.read:
            self.read[config_path] = copy.deepcopy(found)
        return found


def reading_once() -> AbstractContextManager[object]:
    """In here Hydra reads each file of conf/ once per process."""
    return mock.patch.object(config_loader_impl, "CachingConfigRepository", _Repository)


def parse_overrides(parser: OverridesParser, overrides: list[str]) -> list[Override]:
    """The same as the method of Hydra's parser; each text is parsed once."""
    new = [each for each in overrides if each not in _parsed]
    _parsed.update(zip(new, PARSED_BY_HYDRA(parser, new), strict=True))
    return [copy.copy(_parsed[each]) for each in overrides]


def compose(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """The same as ``hydra.compose``."""
    key, values = _split(config_name, overrides)
    config = copy.deepcopy(_chosen(key))
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    return config


def _split(config_name: str, overrides: Sequence[str]) -> tuple[tuple[str, ...], list[Override]]:
    """The name of a configuration with the choices of options, and the values."""
    choices: list[Override] = []
    values: list[Override] = []
    for override in parse_overrides(OverridesParser.create(), list(overrides)):
        (choices if (CONF / override.key_or_group).is_dir() else values).append(override)
    return (config_name, *(str(each.input_line) for each in choices)), values


def _chosen(key: tuple[str, ...]) -> DictConfig:
    if key not in _kept:
        with reading_once():
            _kept[key] = BY_HYDRA(key[0], overrides=list(key[1:]))
    return _kept[key]


@dataclass(frozen=True)
class Known:
    """What a process need not compose and parse again."""

    kept: Mapping[tuple[str, ...], DictConfig]
    parsed: Mapping[str, Override]


def known(line: Sequence[str]) -> Known | None:
    """What the command line of an entry point chooses; None where it is none's, or Hydra refuses it."""
    name = Path(line[0]).stem.replace("learner", "train")  # tests/chaos/learner.py trains
    overrides = [each for each in line[1:] if "=" in each]
    if not (CONF / f"{name}.yaml").is_file():
        return None
    with suppress(HydraException, OmegaConfBaseException), hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        key, _ = _split(name, overrides)
        return Known({key: _chosen(key)}, {each: _parsed[each] for each in overrides})
    return None


def take(found: Known) -> None:
    """Compose as this file says from now on, and begin with what another process has found."""
    _kept.update(found.kept)
    _parsed.update(found.parsed)
    hydra.compose = compose
    OverridesParser.parse_overrides = parse_overrides
