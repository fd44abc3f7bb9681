"""YAML that may come from anywhere: the configuration of a run folder, the description in a model folder.

What this program writes has no aliases, no tags and no interpolations (``${...}``), and is a few kilobytes. A few lines of
aliases stand for more than a machine can hold, and an interpolation may read environment variables, so both are refused.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from asr.foreign.files import CONFIGURATION, ForeignError, read_text

DEEPEST = 32  # deepest nesting of mappings and lists
MOST_NODES = 15_000
LONGEST_NUMBER = 64  # characters

_EXPONENT = re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")


def read_yaml(path: Path) -> Any:
    """Read the YAML value in a file: plain values, lists, and mappings whose keys are texts.

    Raises:
        ForeignError: the file cannot be read, or holds what this program never writes; one line that names it.
    """
    return parse_yaml(read_text(path, CONFIGURATION), path)


def parse_yaml(text: str, where: object) -> Any:
    """``read_yaml`` for a text; error messages begin with ``where``."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, RecursionError) as error:
        raise ForeignError(where, f"cannot be read: {_one_line(error)}") from None


class _Loader(yaml.SafeLoader):
    """Counts the composed nodes, and constructs plain values only."""

    depth = 0
    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases (*name), which this program never writes")
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise yaml.YAMLError(f"it has more than {MOST_NODES} values")
        self.depth += 1
        if self.depth > DEEPEST + 1:
            raise yaml.YAMLError(f"nested deeper than {DEEPEST} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_text(self, node: yaml.ScalarNode) -> str:
        if "${" in node.value:
            raise yaml.YAMLError(
                f"line {node.start_mark.line + 1} has an interpolation (${{...}}), and none is resolved"
            )
        if node.value == "???":
            raise yaml.YAMLError(f"line {node.start_mark.line + 1} has a value that is not set (???)")
        return str(node.value)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        if len(node.value) > LONGEST_NUMBER:
            raise yaml.YAMLError(f"a number of {len(node.value)} characters, where {LONGEST_NUMBER} are allowed")
        whole = node.tag.endswith("int")
        number: int | float = self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
        return number

    def construct_pairs_once(self, node: yaml.MappingNode) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str) or key in found:
                what = "twice the key" if isinstance(key, str) else "as a key"
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1} has {what} {str(key)[:80]!r}")
            found[key] = self.construct_object(value_node, deep=True)
        return found

    def construct_list(self, node: yaml.SequenceNode) -> list[Any]:
        return self.construct_sequence(node, deep=True)

    def refuse(self, node: yaml.Node) -> None:
        raise yaml.YAMLError(
            f"line {node.start_mark.line + 1} has the tag {node.tag[:80]!r}, which this program never writes"
        )


# Resolvers and constructors of its own: those of the base class are shared with every other loader.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in each if not tag.endswith((":timestamp", ":merge", ":value"))]
    for first, each in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))  # 1e-5, as OmegaConf reads it
_Loader.yaml_constructors = {
    "tag:yaml.org,2002:null": yaml.SafeLoader.construct_yaml_null,
    "tag:yaml.org,2002:bool": yaml.SafeLoader.construct_yaml_bool,
    "tag:yaml.org,2002:int": _Loader.construct_number,
    "tag:yaml.org,2002:float": _Loader.construct_number,
    "tag:yaml.org,2002:str": _Loader.construct_text,
    "tag:yaml.org,2002:seq": _Loader.construct_list,
    "tag:yaml.org,2002:map": _Loader.construct_pairs_once,
    None: _Loader.refuse,
}


def _one_line(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
