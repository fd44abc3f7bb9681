"""Composes a configuration from conf/ and the command line, and checks every value before anything is built.

Hydra composes; `hydra.compose` is used rather than its decorator, so that errors end in one line, file arguments are
possible and the working directory stays. What a value may be is written once, in the annotations of the constructor
that takes it: see asr/parts.py.
"""

import difflib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from asr.parts import validate
from distributed.errors import UsageError
from scripts.composition import settings as settings_module
from scripts.composition.model_of import take_model
from scripts.composition.refused_sweeps import refuse_sweeps
from scripts.composition.startup import REPOSITORY

CONF = REPOSITORY / "conf"
SYNTAX = "write key=value (quote lists: 'hooks=[a,b]')"
SEVERAL = ("hooks", "logger")  # groups in which any number of options may be chosen, also none


def print_help(config_name: str, arguments: Sequence[str], usage: str) -> bool:
    """Answer --help and --cfg; True if there is nothing else to do."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(usage.strip(), "", *(f"{each}={'|'.join(options(each))}" for each in groups(config_name)), sep="\n")
        print("\n--cfg prints the whole configuration with its defaults; their meaning: conf/")
        return True
    if "--cfg" in arguments:
        print(OmegaConf.to_yaml(compose(config_name, [a for a in arguments if a not in ("--cfg", "job")])), end="")
        return True
    return False


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Split into overrides and paths. Whatever exists is a path, also with an '=' in its name, as in many run folders.

    Flags stay among the overrides, which refuse them.
    """
    overrides = [each for each in arguments if ("=" in each or each.startswith("-")) and not Path(each).exists()]
    return overrides, [Path(each) for each in arguments if each not in overrides]


def compose(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """The checked, resolved configuration ``conf/<config_name>.yaml`` with ``overrides``.

    Raises:
        UsageError: one line that names the key, the value, what is allowed and the nearest valid name.
    """
    config = _compose(config_name, [_quoted(override) for override in overrides], overrides)
    validate(config, settings_module.__name__)
    return config


def _quoted(override: str) -> str:
    """Quote a value that holds an '=', as the folder of a run often does; Hydra's grammar wants that."""
    key, _, value = override.partition("=")
    return f"{key}='{value}'" if "=" in value and not re.search(r"""['"\[{(]""", value) else override


def _compose(config_name: str, overrides: Sequence[str], typed: Sequence[str]) -> DictConfig:
    try:
        _check_choices(config_name, overrides)
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra.compose(config_name, overrides=list(overrides))
        OmegaConf.resolve(config)
        take_model(config, _parsed(overrides), lambda: run_folder(config, typed))
        _leave_out_unchosen(config, overrides)
        _refuse_missing(config)
        return config
    except OverrideParseException as error:
        raise UsageError(_unreadable(str(error.override))) from None
    except MissingConfigException as error:
        raise UsageError(_unknown_option(config_name, overrides, error)) from None
    except ConfigCompositionException as error:
        raise UsageError(_unknown_key(config_name, overrides, error)) from None
    except (InterpolationKeyError, MissingMandatoryValue) as error:
        raise UsageError(f"{error.full_key or 'a value'} is not set: {_first_line(error)}") from None
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(_first_line(error)) from None


def _check_choices(config_name: str, overrides: Sequence[str]) -> None:
    """Refuse overrides that Hydra answers with a traceback, or with a message about its own defaults lists."""
    known = groups(config_name)
    refuse_sweeps(config_name, overrides, set(known) - set(SEVERAL), lambda key: _check_key(config_name, key))
    for override in _parsed(overrides):
        key, written = str(override.key_or_group), override.input_line
        if not key:
            raise UsageError(_unreadable(written))
        none = f"; {key}=[] for none" if key in SEVERAL else ""
        if override.is_delete() and not key.startswith(tuple(f"{group}." for group in SEVERAL)):
            raise UsageError(f"{written}: only what hooks and logger hold can be taken away{none}")
        if _is_group(key) and key not in known:
            raise UsageError(f"{written}: {config_name} has no group {key!r}; it has {', '.join(known)}")
        value = override.value()
        chosen = value if key in SEVERAL and isinstance(value, list) else [value]
        if key in known and (override.package is not None or not all(isinstance(each, str) for each in chosen)):
            raise UsageError(f"{written}: write {key}= and one of {', '.join(options(key))}{none}")
        if key in known and key not in SEVERAL:
            _check_suits(config_name, key, str(value))


def _unreadable(written: str) -> str:
    """What is wrong with an argument that is no setting; one that is written as a flag is shown as a setting."""
    flag = re.fullmatch(r"--([A-Za-z][\w.-]*)(?:=(.*))?", written)
    meant = f"; for example {flag[1].replace('-', '_')}={flag[2] or 'true'}" if flag else ""
    return f"cannot read the argument {written!r}: {SYNTAX}{meant}"


def _check_key(config_name: str, key: str) -> None:
    """Raise UsageError for a name that is neither a group nor a key of the configuration as it is without overrides."""
    known = [*groups(config_name), *_keys(_chosen(config_name, []))]
    if key not in known and not any(key.startswith(f"{group}.") for group in known if _is_group(group)):
        raise UsageError(f"unknown key {key!r}{_nearest(key, known)}")


def _check_suits(config_name: str, group: str, option: str) -> None:
    """Refuse an option that lacks keys which the entry point sets for it, as make_nbest sets those of lists."""
    own = set(_content(CONF / f"{config_name}.yaml").get(group) or ())
    if not own or option not in options(group):
        return
    suiting = [each for each in options(group) if own <= _content(CONF / group / f"{each}.yaml").keys()]
    if option not in suiting:
        keys, allowed = ", ".join(sorted(own)), " or ".join(f"{group}={each}" for each in suiting)
        raise UsageError(f"{group}={option}: {config_name} needs one with {keys}; choose {allowed}")


@cache
def _content(path: Path) -> Mapping[str, Any]:
    """The content of a file of conf/, read once per process: every composition reads all files of its groups."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def _is_group(key: str) -> bool:
    return (CONF / key).is_dir()


def _leave_out_unchosen(config: DictConfig, overrides: Sequence[str]) -> None:
    """Remove an experiment's settings of hooks or loggers that the command does not choose: ``hooks=[]`` removes all.

    Raises:
        UsageError: the command itself sets a key of one that is not chosen, or a value in the place of an option.
    """
    for group in SEVERAL:
        chosen = config.get(group)
        if not isinstance(chosen, DictConfig):
            continue
        if single := [f"{name!s}={node}" for name, node in chosen.items() if not isinstance(node, DictConfig)]:
            raise UsageError(
                f"{group}.{single[0]}: not an option with settings; choose with {group}=[...], [] for none"
            )
        for name in [str(name) for name, node in chosen.items() if "_target_" not in node]:
            for override in _parsed(overrides):
                if f"{override.key_or_group}.".startswith(f"{group}.{name}."):
                    raise UsageError(f"{override.input_line}: {name} is not chosen; add it to {group}=[...]")
            with open_dict(chosen):
                del chosen[name]


def _refuse_missing(config: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UsageError(f"{', '.join(missing)} must be set: add {missing[0]}=... to the command")


def _unknown_key(config_name: str, overrides: Sequence[str], error: ConfigCompositionException) -> str:
    found = re.search(r"Could not override '([^']+)'", str(error))
    if found is None:
        found_group = re.search(r"Could not find '([^']+)'", str(error))
        return _unknown_option(config_name, overrides, error) if found_group else _first_line(error)
    key = found.group(1)
    if _is_group(key):  # a nested group, of which the chosen option of the outer one has none
        return _first_line(error)
    return f"unknown key {key!r}{_nearest(key, list(_keys(_chosen(config_name, overrides))))}"


def _unknown_option(config_name: str, overrides: Sequence[str], error: Exception) -> str:
    for override in _parsed(overrides):
        group = override.key_or_group
        values = override.value() if isinstance(override.value(), list) else [override.value()]
        for value in values:
            if _is_group(group) and str(value) not in options(group):
                allowed = options(group)
                return (
                    f"{group}={value}: there is no conf/{group}/{value}.yaml; allowed: {', '.join(allowed)}"
                    f"{_nearest(str(value), allowed)}"
                )
    return _first_line(error)


def options(group: str) -> list[str]:
    """Names of the choices of a configuration group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def groups(config_name: str) -> list[str]:
    """The groups that an entry point chooses from, each followed by those nested in it (model/predictor)."""
    found: list[str] = []
    for group in _defaults(CONF / f"{config_name}.yaml"):
        nested = {f"{group}/{each}" for name in options(group) for each in _defaults(CONF / group / f"{name}.yaml")}
        found += [group, *sorted(each for each in nested if _is_group(each))]
    return found


def _defaults(path: Path) -> list[str]:
    entries = _content(path).get("defaults", [])
    return [str(key) for entry in entries if isinstance(entry, dict) for key in entry]


def _parsed(overrides: Sequence[str]) -> list[Any]:
    return OverridesParser.create().parse_overrides(list(overrides))


def _chosen(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration with the options that the overrides choose, but without their values."""
    choices = [each.input_line for each in _parsed(overrides) if _is_group(each.key_or_group)]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(config_name, overrides=choices)


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of everything below a node, groups included."""
    for key in node:
        yield f"{prefix}{key}"
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            yield from _keys(child, f"{prefix}{key}.")


def _nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?` where something near exists: the whole name first, then its last part anywhere."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        last = name.rsplit(".", 1)[-1]
        by_last = {key.rsplit(".", 1)[-1]: key for key in known}
        close = [by_last[match] for match in difflib.get_close_matches(last, list(by_last), n=1, cutoff=0.6)]
    return f"; did you mean {close[0]!r}?" if close else ""


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def run_folder(config: DictConfig, arguments: Sequence[str]) -> Path:
    """The folder of a training run, from its name or from one made of its arguments."""
    return Path(config.exp_dir) / (str(config.name) if config.name is not None else run_name(arguments))


def run_name(overrides: Sequence[str]) -> str:
    """A folder name made from the overrides alone, without a date, so that the same command finds its run."""
    kept = sorted(o for o in overrides if o.split("=")[0] not in ("resume", "exp_dir", "name", "logger"))
    slug = re.sub(r"[^A-Za-z0-9_.,=+-]+", "_", "-".join(kept)).strip("_.-")
    if len(slug) > 120:
        slug = f"{slug[:100]}-{abs(_stable_hash(slug)):010x}"
    return slug or "default"


def _stable_hash(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:10], 16)


def differing_keys(one: DictConfig, other: DictConfig) -> list[str]:
    """Dotted names of the values in which two configurations differ; hooks also differ by their order."""
    flat_one, flat_other = flat(one), flat(other)
    differing = sorted(key for key in flat_one | flat_other if flat_one.get(key) != flat_other.get(key))
    hooks_one, hooks_other = list(one.get("hooks") or {}), list(other.get("hooks") or {})
    if hooks_one != hooks_other and set(hooks_one) == set(hooks_other):
        differing.append("the order of hooks")
    return differing


def flat(node: DictConfig) -> dict[str, Any]:
    """Every value of a configuration by its dotted name; empty lists and mappings count as values."""

    def walk(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for key, child in value.items():
                yield from walk(child, f"{prefix}.{key}" if prefix else str(key))
        else:
            yield prefix, value

    return dict(walk(OmegaConf.to_container(node, resolve=True), ""))
