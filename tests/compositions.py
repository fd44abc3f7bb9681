"""Compositions for tests: Hydra composes each choice of options once per process, and values are put into a copy of that.

Hydra takes some 0.2 s of a core for a configuration, most of it for its lists of defaults; tests compose thousands, which differ by
values. What is refused, resolved and checked afterwards is done each time. The tests of compositions themselves, and all entry points
in processes of their own, have Hydra itself; test_compose.py compares the two.
"""

import copy
from collections.abc import Sequence
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from scripts.composition.compose import CONF

BY_HYDRA = hydra.compose
_kept: dict[tuple[str, ...], DictConfig] = {}


def compose(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """The same as ``hydra.compose``."""
    choices: list[Any] = []
    values: list[Any] = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        (choices if (CONF / override.key_or_group).is_dir() else values).append(override)
    key = (config_name, *(each.input_line for each in choices))
    if key not in _kept:
        _kept[key] = BY_HYDRA(config_name, overrides=list(key[1:]))
    config = copy.deepcopy(_kept[key])
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    return config
