"""Writes checkpoints that survive kill -9, a full disk and a flipped bit, and retires them.

Everything is written into a folder under a temporary name and fsynced; learner 0 then writes the manifest and renames
the folder, so that a folder under its final name is complete. Writing fails or succeeds on all learners together, at
once or, where a thread writes, at the next of their meetings that needs the checkpoint.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
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
from asr.runs.checkpoint_settings import refuse_other_settings
from asr.runs.checkpoint_shared import SHARED, divided
from asr.runs.checkpoint_writing import Writing
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
from distributed.learners.world import World

REMEDY = "the checkpoints before it are intact: free space or make the folder writable, then run it again"

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
        in_background: bool = False,
    ) -> None:
        """Take what describes the run in every checkpoint.

        Args:
            settings: by dotted key, all on which the run's numbers depend; plain values, equal in every resume.
            in_background: whether threads write checkpoints while training goes on.
        """
        self.root = root
        self.world = world
        self.retention = retention
        self.backend = backend
        self.plan = plan
        self.model = model
        self.settings = settings
        self.in_background = in_background
        self.has_one = False  # whether all learners know that there is a complete checkpoint
        self._writing: Writing | None = None  # the checkpoint that is being written; on all learners or on none

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest intact checkpoint, found by learner 0 for all, and a line for each newer one that is not intact.

        Those are renamed to ``damaged-...``: retention counts, and later resumes see, intact ones only.

        Raises:
            CheckpointError: on every learner, if there are checkpoints but none is intact, or one is of another
                version of this program, or the newest was written under another batch plan, in which it would stand
                for other utterances, or under other settings, which would mix two runs.
        """
        self.finish()
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
        self.has_one = chosen is not None
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
        self.finish()
        found = list_checkpoints(self.root)[0] if self.world.rank == 0 else []
        as_good = sum(c.figure is not None and c.figure <= figure for c in found)
        return self.world.any(self.world.rank == 0 and as_good < self.retention.keep_best)

    def save(
        self,
        progress: Progress,
        state: Mapping[str, Any],
        consensus: Mapping[str, Tensor] | None,
        figure: float | None,
        alike: bool = True,
    ) -> Path:
        """Write one checkpoint, or have it written in the background: then ``finish`` says whether it was.

        A last, smaller global batch may end in the same global step as the one before, hence under the same name.
        Then the checkpoint with the lower ``figure`` stays; one without takes that of the same number of samples.

        Args:
            state: this learner's; nothing may change it until it is written.
            consensus: weights of the consensus model, which the same holds for; given by learner 0 alone.
            figure: metric of the first evaluation set, if it was evaluated at this point.
            alike: whether learners compare model and optimizer, to store what all hold alike once.

        Raises:
            CheckpointError: on every learner, if any of them could not write; older checkpoints are untouched.
        """
        self.finish()
        final = self.root / checkpoint_name(progress.global_step)
        temporary = self.root / f"{WRITING}{final.name}"
        doing = f"write checkpoint {final}"
        with self._together(doing, REMEDY):
            if self.world.rank == 0:
                sweep(self.root, WRITING)
                temporary.mkdir(parents=True)
        own, shared = divided(state, self.world, consensus) if alike else (state, None)
        write = partial(self._write_own, temporary, own, shared, consensus)
        complete = partial(self._complete, temporary, final, asdict(progress), figure) if self.world.rank == 0 else None
        if self.in_background:
            digests = [_digest_file(temporary, learner) for learner in range(self.world.size)]
            self._writing = Writing(doing, write, digests, complete)
        else:
            self._write_now(doing, write, complete)
        return final

    def _write_now(self, doing: str, write: Callable[[], None], complete: Callable[[], None] | None) -> None:
        with self._together(doing, REMEDY):
            write()
        with self._together(doing, REMEDY):
            if complete is not None:
                complete()
        self.has_one = True

    def finish(self) -> None:
        """Wait for the checkpoint that is written in the background, if there is one.

        Raises:
            CheckpointError: on every learner, if any of them could not write; older checkpoints are untouched.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            with self._together(writing.doing, REMEDY):
                writing.wait_written()
        except BaseException:
            writing.give_up()
            raise
        with self._together(writing.doing, REMEDY):
            writing.wait_completed()
        self.has_one = True

    def close(self) -> None:
        """After an error: let a checkpoint that is being written become complete, if the others still do their part.

        Not collective, and safe to call twice; after ``finish`` it does nothing.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.close()

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
            reason = f"learner {first[0]}: {first[1]}" if failure is None else one_line(failure)
            stops = (
                failure
                if isinstance(failure, CheckpointError)
                else CheckpointError(f"cannot {doing}: {reason}; {remedy}")
            )
            stops.agreed = True
            raise stops from (None if stops is failure else failure)

    def _write_own(
        self,
        temporary: Path,
        own: Mapping[str, Any],
        shared: Mapping[str, Any] | None,
        consensus: Mapping[str, Tensor] | None,
    ) -> None:
        """Write this learner's files; the one with the digest of its own state comes last."""
        if consensus is not None:
            write_weights(temporary / WEIGHTS, without_auxiliaries(consensus))
            if auxiliaries := auxiliaries_alone(consensus):
                write_weights(temporary / AUXILIARIES, auxiliaries)
        if shared is not None and self.world.rank == 0:
            _write_state(temporary / SHARED, shared)
        file = temporary / learner_file(self.world.rank)
        _write_state(file, own)
        write_atomically(_digest_file(temporary, self.world.rank), sha256(file))

    def _complete(self, temporary: Path, final: Path, progress: Mapping[str, Any], figure: float | None) -> None:
        """Give the checkpoint its manifest and its name, and retire others."""
        earlier = intact_checkpoint(final)
        if earlier is not None and earlier.figure is not None:
            if figure is None and earlier.progress.samples == progress["samples"]:
                figure = earlier.figure
            elif figure is not None and earlier.figure < figure:
                log.info("%s is kept: its metric is lower than the one after %d samples", final, progress["samples"])
                shutil.rmtree(temporary)
                return
        weights = [each for each in (WEIGHTS, AUXILIARIES, SHARED) if (temporary / each).exists()]
        names = [*weights, *write_description(temporary, self.model.description, self.model.tokenizer)]
        files = {name: sha256(temporary / name) for name in names}
        for learner in range(self.world.size):
            digest = _digest_file(temporary, learner)
            files[learner_file(learner)] = digest.read_text()
            digest.unlink()
        run = {"world_size": self.world.size, "backend": self.backend, "plan": self.plan, "settings": self.settings}
        write_manifest(temporary, {"progress": progress, **run, "figure": figure, "files": files})
        put_in_place(temporary, final)
        self._retire()

    def _retire(self) -> None:
        found, _ = list_checkpoints(self.root)
        best = ranked_checkpoints(found)[: self.retention.keep_best]
        kept = {c.folder for c in (*found[-self.retention.keep_last :], *best)}
        for checkpoint in found:
            if checkpoint.folder not in kept:
                delete_folder(checkpoint.folder)


def _digest_file(folder: Path, learner: int) -> Path:
    """Where a learner says, until learner 0 has read it, which SHA-256 its state has, and that it is all written."""
    return (folder / learner_file(learner)).with_suffix(".sha256")


def _write_state(path: Path, state: Mapping[str, Any]) -> None:
    with path.open("wb") as file:  # of a file that torch opens itself no error says that the disk is full
        torch.save(dict(state), file)
    fsync(path)
