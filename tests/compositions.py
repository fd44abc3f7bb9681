"""Compositions for tests: Hydra composes each choice of options once per process, and values are put into a copy of that.

Hydra takes some 0.2 s of a core for a configuration, most of it for its lists of defaults, and parses each argument four times; tests
compose thousands, which differ by values. What is refused, resolved and checked is done each time. The tests of compositions
themselves, and all entry points in processes of their own, have Hydra itself; test_compose.py compares the two.
"""

import copy
from collections.abc import Sequence

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from scripts.composition.compose import CONF

BY_HYDRA = hydra.compose
PARSED_BY_HYDRA = OverridesParser.parse_overrides
_kept: dict[tuple[str, ...], DictConfig] = {}
_parsed: dict[str, Override] = {}


def parse_overrides(parser: OverridesParser, overrides: list[str]) -> list[Override]:
    """The same as the method of Hydra's parser; each text is parsed once."""
    new = [each for each in overrides if each not in _parsed]
    _parsed.update(zip(new, PARSED_BY_HYDRA(parser, new), strict=True))
    return [copy.copy(_parsed[each]) for each in overrides]


def compose(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """The same as ``hydra.compose``."""
    choices: list[Override] = []
    values: list[Override] = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        (choices if (CONF / override.key_or_group).is_dir() else values).append(override)
    key = (config_name, *(str(each.input_line) for each in choices))
    if key not in _kept:
        _kept[key] = BY_HYDRA(config_name, overrides=list(key[1:]))
    config = copy.deepcopy(_kept[key])
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    return config
