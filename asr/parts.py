"""Parts from a configuration: nodes are checked against the annotations of the constructors that they name, then built.

Every node with a ``_target_`` is checked, before anything is built: the target is one of our parts, each key is one of
its parameters, each value is of the annotated type and within the annotated range (distributed/ranges.py).

A run folder's configuration and a model folder's description may come from anywhere. Using them must not run foreign code, nor
any of our own functions that was never meant to make a part: what may be named, and where, is written in ``find_target`` and ``refusal``.
"""

import difflib
import importlib
import inspect
import types
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf

from distributed.errors import UsageError
from distributed.ranges import Range

NODE_KEYS = ("_target_", "_partial_")  # of a node itself; all others are parameters of its target
PART_PACKAGES = ("asr", "compression", "distributed")
LONGEST_SHOWN = 200  # characters of a value in an error
PLAIN: dict[Any, tuple[type, ...]] = {  # annotation -> types of values that fit
    float: (int, float),
    int: (int,),
    str: (str,),
    Path: (str,),
    bool: (bool,),
    None: (type(None),),
    type(None): (type(None),),
}


def validate(config: DictConfig, settings: str = "") -> None:
    """Check every value of a configuration, of which the top level may be a class of the module ``settings``.

    Raises:
        UsageError: one line naming the key, the value and what is allowed.
    """
    content = plain(config)
    if "_target_" in content:
        _check_node(content, "", settings)
    for key, child in content.items():
        _walk(child, key)


def check_part(node: Any, path: str, kind: type | None) -> None:
    """Check a node, and those inside it, that may come from anywhere; ``path`` is what errors call it.

    ``kind`` is what the node must make, itself or a subclass; None: any class of ours.

    Raises:
        UsageError: one line naming the key, the value and what is allowed; also where a parameter is missing.
    """
    if not _is_part(node):
        raise UsageError(f"{path}: must be a node with a _target_, got {typed(node)[:80]}")
    target = find_target(node["_target_"], path)
    made = inspect.signature(target, eval_str=True).return_annotation if inspect.isfunction(target) else target
    if not inspect.isclass(made) or (kind is not None and not issubclass(made, kind)):
        raise UsageError(f"{path}._target_={node['_target_']}: makes no {'part' if kind is None else kind.__name__}")
    _walk(node, path)
    parameters = inspect.signature(target).parameters.values()
    required = [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    missing = [each.name for each in required if each.default is each.empty and each.name not in node]
    if missing:
        raise UsageError(f"{path}: {', '.join(missing)} missing")


def plain(config: DictConfig) -> dict[str, Any]:
    """A configuration as plain values."""
    content = OmegaConf.to_container(config, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def build(node: Mapping[str, Any], **runtime: Any) -> Any:
    """What a node describes, completed with objects known only at run time; nodes inside it are built first.

    A node with ``_partial_: true`` inside it becomes a function that takes the parameters which it leaves open.
    """
    content = plain(node) if isinstance(node, DictConfig) else node
    return find_target(content["_target_"], "")(**_arguments(content), **runtime)


def _arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key): _built(value) for key, value in node.items() if key not in NODE_KEYS}


def _built(value: Any) -> Any:
    if isinstance(value, Mapping):
        if "_target_" not in value:
            return {key: _built(child) for key, child in value.items()}
        target, arguments = find_target(value["_target_"], ""), _arguments(value)
        return partial(target, **arguments) if value.get("_partial_") else target(**arguments)
    return [_built(child) for child in value] if isinstance(value, list) else value


def _walk(node: Any, path: str) -> None:
    if isinstance(node, dict):
        if "_target_" in node:
            _check_node(node, path)
        for key, child in node.items():
            _walk(child, f"{path}.{key}" if path else str(key))
    elif isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            _walk(child, f"{path}[{index}]")


def _check_node(node: dict[str, Any], path: str, settings: str = "") -> None:
    target = find_target(node["_target_"], path, settings)
    parameters = inspect.signature(target, eval_str=True).parameters
    for key, value in node.items():
        if key in NODE_KEYS:
            continue
        name = f"{path}.{key}" if path else key
        if key not in parameters:
            near = difflib.get_close_matches(key, list(parameters), n=1)
            raise UsageError(f"unknown key {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        allowed = refusal(value, parameters[key].annotation)
        if allowed is not None:
            hint = f"; write {name}=[{value}]" if allowed == "a list" and isinstance(value, str) else ""
            raise UsageError(f"{name}={typed(value)}: must be {allowed}{hint}")


def find_target(name: str, path: str, settings: str = "") -> Callable[..., Any]:
    """The class or function that the node at ``path`` names; the module ``settings`` is allowed beside our packages of parts.

    It is public, where it is defined, in a package of parts; a function must be one that makes a part.
    """
    module, _, attribute = str(name).rpartition(".")
    where = f"{path}._target_={name}" if path else f"_target_={name}"
    if module.split(".")[0] not in PART_PACKAGES and not (settings and module == settings):
        raise UsageError(f"{where}: must lie in one of the packages {', '.join(PART_PACKAGES)}")
    try:
        target: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{where}: cannot be found: {error}") from None
    made = inspect.signature(target, eval_str=True).return_annotation if inspect.isfunction(target) else target
    if attribute.startswith("_") or getattr(target, "__module__", None) != module or not _is_part_class(made):
        raise UsageError(f"{where}: must be a public class that {module} defines, or a function that makes a part")
    return target


def _is_part_class(annotation: Any) -> bool:
    return inspect.isclass(annotation) and annotation not in PLAIN and annotation.__module__ != "builtins"


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value


def refusal(value: Any, annotation: Any) -> str | None:
    """What is allowed, in words, if ``value`` does not fit ``annotation``; None if it fits."""
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
        if not isinstance(value, dict) or _is_part(value):
            return "a mapping of plain values"
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
    if annotation is Any:
        return None
    if annotation in PLAIN:
        fits = isinstance(value, PLAIN[annotation]) and (annotation is bool or not isinstance(value, bool))
        return None if fits else _type_words(annotation)
    if _is_part_class(annotation) or get_origin(annotation) is Callable:
        return None if _is_part(value) else "a node with a _target_"
    return "left out: it is known only when a run starts"


def _type_words(annotation: Any) -> str:
    words = {float: "a number", int: "a whole number", str: "text", Path: "a path", bool: "true or false"}
    return words.get(annotation, "null" if annotation in (None, type(None)) else str(annotation))


def typed(value: Any) -> str:
    """A value as one types it in a command; of a very long one the beginning."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
