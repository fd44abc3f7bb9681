"""Which checkpoints of a run are its model: the best, the newest, or the mean of several, each found intact."""

import itertools
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from asr.runs.checkpoint import (
    Checkpoint,
    list_checkpoints,
    list_emergencies,
    mean_of_auxiliaries,
    mean_of_models,
    ranked_checkpoints,
    warn_of_unreadable,
)
from asr.runs.model_folder import WEIGHTS, LoadedModel, load_model
from distributed.errors import UsageError

log = logging.getLogger(__name__)


def name_of_mean(chosen: Sequence[Checkpoint]) -> str:
    """Name of the mean of checkpoints: their folders' names, joined by ``+``."""
    return "+".join(each.folder.name for each in chosen)


def origin_of(chosen: Sequence[Checkpoint]) -> dict[str, Any]:
    """Identifies a mean of checkpoints in results: a name, and digests, as a run trained anew has the same name."""
    return {"checkpoint": name_of_mean(chosen), "weights_sha256": [each.files[WEIGHTS] for each in chosen]}


def check_checkpoint(which: str) -> None:
    """Raise UsageError unless ``which`` is a valid choice of checkpoints."""
    if which not in ("best", "last", "emergency") and not re.fullmatch("(avg|best):[1-9][0-9]*", which):
        raise UsageError(f"checkpoint={which}: must be best, last, avg:N or best:N with N at least 1, or emergency")


def choose_checkpoints(root: Path, which: str) -> list[Checkpoint]:
    """The checkpoints whose weights are averaged, each found intact.

    One for ``best`` and ``last``, the newest N for avg:N, the N of lowest word error rate for best:N; oldest first.
    ``emergency``: the newest mean of a run's survivors.
    """
    check_checkpoint(which)
    found, problems = list_emergencies(root) if which == "emergency" else list_checkpoints(root)
    unreadable = "".join(f"; {problem}" for problem in problems.values())
    if not found:
        reason = "no learner of this run was lost under gossip" if which == "emergency" else "train the run first"
        raise UsageError(f"{root}: no checkpoint there for checkpoint={which}; {reason}{unreadable}")
    kind, _, number = which.partition(":")
    wanted = int(number or 1)
    ranked = ranked_checkpoints(found)
    if kind == "best" and number and wanted > len(ranked):
        raise UsageError(
            f"checkpoint={which}: the run keeps {len(ranked)} checkpoints with a word error rate (see "
            f"checkpoint.keep_best){unreadable}"
        )
    if wanted > len(found):
        raise UsageError(
            f"checkpoint={which}: the run keeps {len(found)} checkpoints (see checkpoint.keep_last){unreadable}"
        )
    warn_of_unreadable(problems)
    best = {each.folder for each in (ranked or found[-1:])[:wanted]}
    chosen = [each for each in found if each.folder in best] if kind == "best" else found[-wanted:]
    for each in chosen:
        damaged = each.damaged_file()
        if damaged is not None:
            raise UsageError(f"{damaged}: missing, truncated or altered (SHA-256 differs); choose another checkpoint=")
    return chosen


def warn_of_gaps(chosen: list[Checkpoint], which: str, every: int) -> None:
    """Warn if a mean of the last checkpoints includes older ones that were kept only for being among the best."""
    if not which.startswith("avg"):
        return
    marks = [each.progress.global_step // every for each in chosen]
    if any(later - earlier > 1 for earlier, later in itertools.pairwise(marks)):
        names = ", ".join(each.folder.name for each in chosen)
        log.warning(
            "checkpoint=%s: %s do not follow each other, the older ones were kept for being best; "
            "train with a higher checkpoint.keep_last to average the last ones",
            which,
            names,
        )


def warn_of_best_lost(which: str, keep_best: int) -> None:
    """Warn if a mean of the best checkpoints includes some that were kept only for being among the last."""
    if which.startswith("best:") and int(which.removeprefix("best:")) > keep_best:
        log.warning(
            "checkpoint=%s: the run keeps its %d best (checkpoint.keep_best); the others are the best of the last ones",
            which,
            keep_best,
        )


def mean_of(chosen: Sequence[Checkpoint]) -> dict[str, Tensor]:
    """Mean weights of checkpoints, given oldest first; values that cannot be averaged come from the newest."""
    return mean_of_models([each.folder / WEIGHTS for each in reversed(chosen)])


def mean_model(chosen: Sequence[Checkpoint]) -> LoadedModel:
    """The model that is the mean of checkpoints, given oldest first, on the CPU."""
    auxiliaries = partial(mean_of_auxiliaries, [each.folder for each in reversed(chosen)])
    loaded = load_model(chosen[-1].folder, "run", mean_of(chosen))
    return replace(loaded, origin=origin_of(chosen), auxiliaries=auxiliaries)
