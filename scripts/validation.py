"""Checks a configuration against the annotations of the constructors that it names.

Every node with a ``_target_`` is checked, before anything is built: the target lies in this project, each key is one of
its parameters, each value is of the annotated type and within the annotated range (distributed/ranges.py).
"""

import difflib
import importlib
import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf

from distributed.ranges import Range
from scripts.startup import PACKAGES, UsageError

HYDRA_KEYS = ("_target_", "_partial_", "_recursive_", "_convert_")


def validate(config: DictConfig) -> None:
    """Check every value of a configuration.

    Raises:
        UsageError: one line naming the key, the value and what is allowed.
    """
    _walk(OmegaConf.to_container(config, resolve=True), "")


def _walk(node: Any, path: str) -> None:
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        _check_node(node, path)
    for key, child in node.items():
        _walk(child, f"{path}.{key}" if path else str(key))


def _check_node(node: dict[str, Any], path: str) -> None:
    target = find_target(node["_target_"], path)
    parameters = inspect.signature(target, eval_str=True).parameters
    for key, value in node.items():
        if key in HYDRA_KEYS:
            continue
        name = f"{path}.{key}" if path else key
        if key not in parameters:
            near = difflib.get_close_matches(key, list(parameters), n=1)
            raise UsageError(f"unknown key {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        allowed = refusal(value, parameters[key].annotation)
        if allowed is not None:
            raise UsageError(f"{name}={_shown(value)}: must be {allowed}")


def find_target(name: str, path: str) -> Callable[..., Any]:
    """The class or function that a node names; only our own packages may be named.

    A run folder's configuration may come from anywhere, and building what it names must not run foreign code.
    """
    module, _, attribute = str(name).rpartition(".")
    if module.split(".")[0] not in PACKAGES:
        raise UsageError(f"{path}._target_={name}: must lie in one of the packages {', '.join(PACKAGES)}")
    try:
        target: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{path}._target_={name}: cannot be found: {error}") from None
    return target


def refusal(value: Any, annotation: Any) -> str | None:
    """What is allowed, in words, if ``value`` does not fit ``annotation``; None if it fits."""
    if isinstance(value, dict) and "_target_" in value:
        return None  # a part of its own, checked where it stands
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *marks = get_args(annotation)
        ranges = [mark for mark in marks if isinstance(mark, Range)]
        inner = refusal(value, base)
        if inner is not None or any(value not in allowed for allowed in ranges):
            return " ".join([_type_words(base), *map(str, ranges)])
        return None
    if origin in (Union, types.UnionType):
        reasons = [refusal(value, choice) for choice in get_args(annotation)]
        return None if None in reasons else " or ".join(r for r in reasons if r)
    if origin is Literal:
        choices = get_args(annotation)
        near = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return None if value in choices else f"one of {', '.join(map(str, choices))}{hint}"
    if origin in (list, tuple, dict):
        return _container_refusal(value, origin, get_args(annotation))
    return _plain_refusal(value, annotation)


def _container_refusal(value: Any, origin: type, arguments: tuple[Any, ...]) -> str | None:
    if origin is dict:
        if not isinstance(value, dict):
            return "a mapping"
        reasons = [refusal(item, arguments[1]) for item in value.values()]
        return next((f"a mapping of which each value is {r}" for r in reasons if r), None)
    if not isinstance(value, list):
        return "a list"
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        if len(value) != len(arguments):
            return f"a list of {len(arguments)} values"
        reasons = [refusal(item, kind) for item, kind in zip(value, arguments, strict=True)]
    else:
        reasons = [refusal(item, arguments[0]) for item in value]
    return next((f"a list of which each entry is {r}" for r in reasons if r), None)


def _plain_refusal(value: Any, annotation: Any) -> str | None:
    accepted: dict[Any, tuple[type, ...]] = {
        float: (int, float),
        int: (int,),
        str: (str,),
        Path: (str,),
        bool: (bool,),
        None: (type(None),),
        type(None): (type(None),),
    }
    if annotation not in accepted:
        return None  # a runtime object's type: not for a configuration to give
    fits = isinstance(value, accepted[annotation]) and (annotation is bool or not isinstance(value, bool))
    return None if fits else _type_words(annotation)


def _type_words(annotation: Any) -> str:
    words = {float: "a number", int: "a whole number", str: "text", Path: "a path", bool: "true or false"}
    return words.get(annotation, "null" if annotation in (None, type(None)) else str(annotation))


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
