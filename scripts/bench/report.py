"""The JSON file that a benchmark saves: its results, the rows of its table, its environment and command."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.composition.environment import environment


def save_figures(
    path: Path,
    figures: Mapping[str, float],
    rows: Sequence[Mapping[str, Any]],
    made_with: Mapping[str, Any] | None = None,
    **remarks: Any,
) -> None:
    """Write ``{"environment", "command", "figures", "rows"}`` and remarks as JSON, making the folder if it is missing.

    ``made_with`` is the environment at the start of the measurement, since commits may follow while it runs.
    """
    surroundings = dict(made_with or environment())
    record = {"environment": surroundings, "command": surroundings["command"], **remarks}
    record |= {"figures": dict(figures), "rows": [dict(row) for row in rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
