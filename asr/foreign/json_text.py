"""JSON that may come from anywhere: a line or a file whose nesting, numbers and characters are within limits.

Python's parser meets deep nesting with RecursionError and an integer of many digits with ValueError, of fewer with a
number that no float holds; ``\\ud800`` becomes a text that cannot be written. Each is a ``ValueError`` here, of one line.
"""

import json
import re
from pathlib import Path
from typing import Any

from asr.foreign.files import RECORD, ForeignError, Kind, read_text

DEEPEST = 64  # deepest nesting of brackets
MOST_DIGITS = 30  # most digits of an integer; a float can hold it

_LONG_NUMBER = re.compile(rf"[0-9]{{{MOST_DIGITS + 1}}}")


def parse_json(text: str) -> Any:
    """Parse a JSON text within the limits.

    Raises:
        ValueError: it is not JSON, or beyond a limit; one line that says which.
    """
    try:
        # Most texts have no long number: reading each integer by a function of ours would take three times as long.
        value = json.loads(text, parse_int=_integer) if _LONG_NUMBER.search(text) else json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    if text.count("[") + text.count("{") > DEEPEST:
        _check_depth(value)
    if "\\u" in text:
        _check_characters(value)
    return value


def read_json(path: Path, kind: Kind = RECORD) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        ForeignError: the file cannot be read, or holds anything else; one line that names it.
    """
    text = read_text(path, kind)
    try:
        value = parse_json(text)
    except ValueError as error:
        raise ForeignError(path, str(error)) from None
    if not isinstance(value, dict):
        raise ForeignError(path, f"must hold a JSON object, got {type(value).__name__}")
    return value


_TOO_DEEP = f"nested deeper than {DEEPEST} levels"


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits, where {MOST_DIGITS} are allowed")
    return int(digits)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [child for each in level if isinstance(each, (list, dict)) for child in _children(each)]
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def _children(value: list[Any] | dict[str, Any]) -> list[Any]:
    return value if isinstance(value, list) else list(value.values())


def _check_characters(value: Any) -> None:
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, (list, dict)):
            left += [*each, *(each.values() if isinstance(each, dict) else ())]
        elif isinstance(each, str) and (bad := re.search("[\0\ud800-\udfff]", each)):
            raise ValueError(f"a text has U+{ord(bad[0]):04X}, which no text can be written with")
