"""Writes checkpoints that survive kill -9, a full disk and a flipped bit, and retires them.

Everything is written into a folder under a temporary name and fsynced; learner 0 then writes the manifest and renames
the folder, so that a folder under its final name is complete. Writing fails or succeeds on all learners together.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.models.auxiliary import auxiliaries_alone, without_auxiliaries
from asr.runs.checkpoint import (
    AUXILIARIES,
    DAMAGED,
    WRITING,
    Checkpoint,
    Retention,
    checkpoint_name,
    intact_checkpoint,
    learner_file,
    list_checkpoints,
    newest_intact,
    ranked_checkpoints,
    read_checkpoint,
)
from asr.runs.checkpoint_manifest import CheckpointError, one_line, write_manifest
from asr.runs.files import (
    delete_folder,
    fsync,
    put_in_place,
    restore_replaced,
    set_aside,
    sha256,
    sweep,
    write_atomically,
)
from asr.runs.model_folder import WEIGHTS, ModelParts, write_description, write_weights
from asr.runs.progress import Progress
from distributed.learners.launch import World

NAMED_SETTINGS = 8  # most differing settings that an error names

log = logging.getLogger(__name__)


class CheckpointFolder:
    """Writes, finds and retires the checkpoints of one run; every method is called by all learners together."""

    def __init__(
        self,
        root: Path,
        world: World,
        retention: Retention,
        backend: str,
        plan: int,
        model: ModelParts,
        settings: Mapping[str, Any],
    ) -> None:
        """``settings``, by dotted key: all on which the run's numbers depend; plain values, equal in every resume."""
        self.root = root
        self.world = world
        self.retention = retention
        self.backend = backend
        self.plan = plan
        self.model = model
        self.settings = settings

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest intact checkpoint, found by learner 0 for all, and a line for each newer one that is not intact.

        Those are renamed to ``damaged-...``: retention counts, and later resumes see, intact ones only.

        Raises:
            CheckpointError: on every learner, if there are checkpoints but none is intact, or one is of another
                version of this program, or the newest was written under another batch plan, in which it would stand
                for other utterances, or under other settings, which would mix two runs.
        """
        chosen: Checkpoint | None = None
        lines: list[str] = []
        doing, remedy = f"resume from {self.root}", "mend what it names, then run the same command again"
        with self._together(doing, remedy):
            if self.world.rank == 0:
                chosen, lines = self._find()
        number = torch.tensor([-1 if chosen is None else int(chosen.folder.name.removeprefix("step-"))])
        step = int(self.world.broadcast(number, source=0).item())
        with self._together(doing, remedy):
            if self.world.rank != 0 and step >= 0:
                chosen = read_checkpoint(self.root / checkpoint_name(step))
        if chosen is not None and chosen.plan != self.plan:
            raise CheckpointError(
                f"{chosen.folder} was written with other training data (utterances, lengths or tokens have changed "
                "since): restore the data to go on, or choose another name="
            )
        if chosen is not None and chosen.settings is not None:
            refuse_other_settings(chosen.folder, chosen.settings, self.settings)
        return chosen, lines

    def _find(self) -> tuple[Checkpoint | None, list[str]]:
        restore_replaced(self.root)
        chosen, problems = newest_intact(self.root)
        if chosen is None and problems:
            raise CheckpointError(
                f"no checkpoint in {self.root} is intact: {'; '.join(problems.values())}; "
                "restore one of them, or move them away to train from the start"
            )
        lines = [f"{why}; kept as {set_aside(folder, DAMAGED).name}" for folder, why in sorted(problems.items())]
        return chosen, lines

    def among_best(self, figure: float) -> bool:
        """Whether a checkpoint with this figure would be one of the ``keep_best`` best."""
        found = list_checkpoints(self.root)[0] if self.world.rank == 0 else []
        as_good = sum(c.figure is not None and c.figure <= figure for c in found)
        return self.world.any(self.world.rank == 0 and as_good < self.retention.keep_best)

    def save(
        self, progress: Progress, state: Mapping[str, Any], consensus: Mapping[str, Tensor] | None, figure: float | None
    ) -> Path:
        """Write one checkpoint; only learner 0 gives ``consensus``.

        A last, smaller global batch may end in the same global step as the one before, hence under the same name.
        Then the checkpoint with the lower ``figure`` stays; one without takes that of the same number of samples.

        Raises:
            CheckpointError: on every learner, if any of them could not write; older checkpoints are untouched.
        """
        final = self.root / checkpoint_name(progress.global_step)
        temporary = self.root / f"{WRITING}{final.name}"
        doing = f"write checkpoint {final}"
        remedy = "the checkpoints before it are intact: free space or make the folder writable, then run it again"
        with self._together(doing, remedy):
            if self.world.rank == 0:
                sweep(self.root, WRITING)
                temporary.mkdir(parents=True)
        with self._together(doing, remedy):
            self._write_own(temporary, state, consensus)
        with self._together(doing, remedy):
            if self.world.rank == 0:
                self._complete(temporary, final, progress, figure)
                self._retire()
        return final

    @contextmanager
    def _together(self, doing: str, remedy: str) -> Iterator[None]:
        """Wraps work done on every learner: if it fails on one, for whatever reason, it fails on all."""
        failure: Exception | None = None
        try:
            yield
        except Exception as error:  # a learner that left alone would let the others wait for it
            failure = error
        first = self.world.first_failure(None if failure is None else one_line(failure))
        if first is not None:
            if isinstance(failure, CheckpointError):
                raise failure
            reason = f"learner {first[0]}: {first[1]}" if failure is None else one_line(failure)
            raise CheckpointError(f"cannot {doing}: {reason}; {remedy}") from failure

    def _write_own(self, temporary: Path, state: Mapping[str, Any], consensus: Mapping[str, Tensor] | None) -> None:
        own = temporary / learner_file(self.world.rank)
        with own.open("wb") as file:  # of a file that torch opens itself no error says that the disk is full
            torch.save(dict(state), file)
        fsync(own)
        write_atomically(own.with_suffix(".sha256"), sha256(own))
        if consensus is not None:
            write_weights(temporary / WEIGHTS, without_auxiliaries(consensus))
            if auxiliaries := auxiliaries_alone(consensus):
                write_weights(temporary / AUXILIARIES, auxiliaries)

    def _complete(self, temporary: Path, final: Path, progress: Progress, figure: float | None) -> None:
        earlier = intact_checkpoint(final)
        if earlier is not None and earlier.figure is not None:
            if figure is None and earlier.progress.samples == progress.samples:
                figure = earlier.figure
            elif figure is not None and earlier.figure < figure:
                log.info("%s is kept: its metric is lower than the one after %d samples", final, progress.samples)
                shutil.rmtree(temporary)
                return
        weights = [each for each in (WEIGHTS, AUXILIARIES) if (temporary / each).exists()]
        names = [*weights, *write_description(temporary, self.model.description, self.model.tokenizer)]
        files = {name: sha256(temporary / name) for name in names}
        for learner in range(self.world.size):
            digest = (temporary / learner_file(learner)).with_suffix(".sha256")
            files[learner_file(learner)] = digest.read_text()
            digest.unlink()
        run = {"world_size": self.world.size, "backend": self.backend, "plan": self.plan, "settings": self.settings}
        write_manifest(temporary, {"progress": asdict(progress), **run, "figure": figure, "files": files})
        put_in_place(temporary, final)

    def _retire(self) -> None:
        found, _ = list_checkpoints(self.root)
        best = ranked_checkpoints(found)[: self.retention.keep_best]
        kept = {c.folder for c in (*found[-self.retention.keep_last :], *best)}
        for checkpoint in found:
            if checkpoint.folder not in kept:
                delete_folder(checkpoint.folder)


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
