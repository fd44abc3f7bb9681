"""Combinations of parts that a run refuses, or warns of, while its trainer is put together."""

import logging
from collections.abc import Collection, Mapping, Sequence

from omegaconf import DictConfig

from asr.data.material import Material, refuse_doubles
from asr.data.plan import BatchPlan
from asr.parts import build
from asr.runs.left_out import Place
from asr.training.hook import Hook, ParameterGroup
from distributed.backend import Backend
from distributed.errors import UsageError
from distributed.keyed import keyed_seed
from distributed.learners.world import World
from scripts.composition.settings import settings_of_run

log = logging.getLogger(__name__)


def warn_if_alone(backend: Backend, learners: int, config: DictConfig) -> None:
    """Warn if the backend mixes weights with those of other learners and there are none."""
    settings = settings_of_run(config)
    if learners == 1 and not backend.synchronous and settings is not None:
        log.warning(
            "backend: one learner has nobody to mix its weights with, and trains as under backend=single; "
            "start several with torchrun --standalone --nproc-per-node 2 scripts/%s ...",
            settings.script,
        )


def check_fold(config: DictConfig) -> None:
    """Refuse a fold that there is not before a corpus is made for it; language models have none."""
    if "fold" in config:
        build(config.fold)


def check_order(hooks: Mapping[str, Hook]) -> None:
    """Refuse a list of hooks in which one would undo another's work: within a stage they run as they are listed."""
    names = list(hooks)
    for position, (name, hook) in enumerate(hooks.items()):
        for late in names[position + 1 :]:
            if late in hook.comes_after:
                raise UsageError(f"hooks=[{','.join(names)}]: {late} must come before {name}; list them in that order")


def check_pace(hooks: Mapping[str, Hook], backend: Backend) -> None:
    """Refuse hooks that need lockstep under a backend without it, and intervals of meetings below 1."""
    for name, hook in hooks.items():
        if hook.needs_lockstep and not backend.lockstep:
            raise UsageError(
                f"hooks=[{name}] needs all learners to make every step together, which {type(backend).__name__} does not; "
                "choose another backend=, or leave the hook out"
            )
        if hook.meets_every is not None and hook.meets_every < 1:
            raise UsageError(f"hooks.{name}: it meets every {hook.meets_every} global steps; that must be 1 or more")


def check_idle(claimed: Mapping[str, Sequence[ParameterGroup]], config: DictConfig) -> None:
    """Moments are mixed once all learners have them for all parameters: those of a group that rests may never come."""
    for name, groups in claimed.items():
        if config.backend.get("mix_moments") and any(group.idle is not None for group in groups):
            raise UsageError(
                f"hooks.{name}: parameters of it rest in some steps and have no moments before their first one, which "
                "backend.mix_moments=true would wait for; set backend.mix_moments=false"
            )


def refuse_doubled_sets(config: DictConfig, material: Material) -> None:
    """Refuse evaluation sets of the same name, under which their metrics are stored."""
    sets = config.evaluation.sets
    refuse_doubles("evaluation.sets", sets, [material.set_name(each) for each in sets], splits=["train"])


def check_same_plan(world: World, plan: BatchPlan, left_out: Collection[Place]) -> None:
    """Refuse learners that see different data: they would train on some utterances twice and on others never."""
    fingerprints = world.gather(keyed_seed(plan.fingerprint, *sorted(left_out)))
    differing = [rank for rank, value in enumerate(fingerprints) if value != fingerprints[0]]
    if differing:
        raise UsageError(
            f"learners {differing} see other training data than learner 0 (utterances, lengths or tokens): "
            "put the corpus where all learners read the same files; on each host scripts/prepare.py says what it reads and leaves out"
        )
