"""Results of a long benchmark by name, kept in a file as they are found: the same command goes on where it was interrupted."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from asr.runs.appended_rows import keep, read_appended
from distributed.errors import UsageError

KEY, MADE_OF = "key", "made of"


class Kept:
    """Keeps results in the lines of ``path``; None keeps them for this process alone.

    Args:
        of: what all results depend on beside their names, as JSON; the first line of the file.

    Raises:
        UsageError: the file holds results of something else.
    """

    def __init__(self, path: Path | None, of: Mapping[str, Any]) -> None:
        self.path = path
        self.made_of = {"of": dict(of)}
        self._results: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            lines = read_appended(path, lambda row: None if isinstance(row.get(KEY), str) else "has no key")
            keep(lines, [text for text, _ in lines.rows])  # without a line that was cut short
            self._results = {row.pop(KEY): row for _, row in lines.rows}
        if (found := self.of(MADE_OF, lambda: self.made_of)) != self.made_of:
            raise UsageError(
                f"{path}: holds results of {found.get('of')}, not of {self.made_of['of']}; choose another file, or remove it"
            )

    def of(self, key: str, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of that name, found now if it was not before."""
        if key not in self._results:
            self._results[key] = find()
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({KEY: key} | self._results[key]) + "\n")
        return self._results[key]
