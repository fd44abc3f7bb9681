"""Pins the files of another run that a hook reads: they must be the same on all learners and after every resume.

Files of the same name may have changed, because that run went on or was repeated. So hooks keep a fingerprint of the
files (asr/runs/fingerprint.py) and refuse different ones, which would change training silently.
"""

from collections.abc import Mapping
from pathlib import Path

from asr.data.pipeline import HookError
from distributed.learners.world import World


class Pinned:
    """Keeps the fingerprint of the files that a hook reads when training starts; ``state`` goes into checkpoints."""

    def __init__(self, key: str) -> None:
        self.key = key  # the configuration key that errors name
        self.found: int | None = None  # None until training starts, and where an earlier version wrote the checkpoint

    def pin(self, found: int, path: Path, world: World) -> None:
        """Keep the fingerprint of the content read from ``path``; called by all learners together.

        Raises:
            HookError: another learner has read different content, or so had the run before it was interrupted.
        """
        all_found = world.gather(found)
        differing = [rank for rank, each in enumerate(all_found) if each != all_found[0]]
        if differing:
            raise HookError(
                f"{self.key}={path}: learners {differing} read another content there than learner 0; "
                "put it where all learners read the same files, and leave it alone while they start"
            )
        if self.found is not None and self.found != found:
            raise HookError(
                f"{self.key}={path}: what is there now is not what this run began with; put the earlier content back "
                "to go on, or train with the new one from the start under another name="
            )
        self.found = found

    def state(self) -> dict[str, int | None]:
        """The state that a checkpoint holds."""
        return {"pinned": self.found}

    def take_back(self, state: Mapping[str, int | None]) -> None:
        """Restore the state of a checkpoint; checkpoints of earlier versions do not have it."""
        self.found = state.get("pinned")
