"""Settings of the run that wrote a checkpoint, against those of the run that would go on from it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asr.runs.checkpoint_manifest import CheckpointError

NAMED_SETTINGS = 8  # most differing settings that an error names


def refuse_other_settings(folder: Path, theirs: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise CheckpointError, naming the keys, if ``theirs``, a checkpoint's settings, differ from the run's ``own``."""
    differing = sorted(key for key in {*theirs, *own} if _canonical(theirs, key) != _canonical(own, key))
    if differing:
        more = f" and {len(differing) - NAMED_SETTINGS} more" if len(differing) > NAMED_SETTINGS else ""
        raise CheckpointError(
            f"{folder} was written by a run with other settings: {', '.join(differing[:NAMED_SETTINGS])}{more} differ; repeat that "
            "run's command to go on, or choose another name="
        )


def _canonical(settings: Mapping[str, Any], key: str) -> str | None:
    """JSON text of a setting, in which tuples equal lists; None where the setting is missing."""
    return json.dumps(settings[key], sort_keys=True) if key in settings else None
