"""The parts of a page that say what was run, and on what: configuration and environment."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from asr.reporting.page import Html, details, join, tag
from asr.reporting.run import RunRecord

FACTS = ("learners", "best", "wall_seconds", "precision", "environment")  # of a summary


def configuration(runs: Sequence[RunRecord]) -> Html:
    """The configuration of each run, folded away."""
    several = len(runs) > 1
    return join(
        details(run.name if several else "configuration", tag("pre", run.config_text, tabindex=0), run=index)
        for index, run in enumerate(runs)
        if run.config_text
    )


def environments(runs: Sequence[RunRecord]) -> Html:
    """The environment in the summary of each run: machine, versions, commit."""
    parts = []
    for index, run in enumerate(runs):
        facts = {key: run.summary[key] for key in FACTS if key in run.summary}
        pairs = [(key, as_text(value)) for key, value in flattened(facts) if value is not None]
        cells = (tag(name, pair[place]) for pair in pairs for place, name in enumerate(("dt", "dd")))
        listed = tag("dl", *cells, class_="pairs")
        if pairs:
            parts.append(details(run.name, listed, run=index) if len(runs) > 1 else listed)
    return join(parts)


def flattened(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Entries of nested mappings as one list; those that describe the machine lose their prefix."""
    entries = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            inner = flattened(value)
            entries += (
                inner if key in ("environment", "versions") else [(f"{key} {name}", leaf) for name, leaf in inner]
            )
        else:
            entries.append((key, value))
    return entries


def as_text(value: Any) -> str:
    """A value of the summary as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if isinstance(value, str) else json.dumps(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
