"""Puts a trainer together from a configuration, in the order that asr/training/hook.py gives."""

import logging
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig
from torch.optim import Optimizer

from asr.data.cache import SignalCache
from asr.data.material import Material, refuse_doubles
from asr.data.plan import BatchPlan
from asr.models.speech_model import SpeechModel
from asr.parts import build, plain
from asr.runs.checkpoint import newest_description
from asr.runs.checkpoint_folder import CheckpointFolder
from asr.runs.console import console_logger
from asr.runs.loggers import Logger
from asr.runs.metrics import MetricsWriter
from asr.runs.model_folder import Description, ModelParts
from asr.runs.run_folder import RunFolder
from asr.training.arithmetic import agree_on_precision
from asr.training.auxiliary_modules import attach_auxiliaries
from asr.training.clock import CheckpointClock
from asr.training.evaluation import EvaluationSet, Evaluator
from asr.training.hook import Hook, ParameterGroup, Run
from asr.training.idle import IdleGroups
from asr.training.loss_gradients import LossGradients
from asr.training.measures import measure_of
from asr.training.memory import MemoryGuard
from asr.training.objective import Objective
from asr.training.parameter_groups import parameter_groups
from asr.training.parts import CheckpointOptions, LoaderOptions, TrainerOptions
from asr.training.precision import Precision
from asr.training.recorder import Recorder
from asr.training.refusals import Refusals, write_screening
from asr.training.run_parts import Parts
from asr.training.schedule import Horizon, LearningRate
from asr.training.trainer import Trainer
from asr.training.typical import run_typical
from asr.training.units import LockstepUnits, PooledUnits, UnitSource, global_step, total_samples
from distributed.backend import Backend
from distributed.errors import UsageError
from distributed.learners.launch import World
from scripts.composition.build import (
    build_backend,
    build_material,
    build_plan,
    count_parameters,
    describe,
    evaluation_set,
    fit_tokenizer,
    hooked_model,
    shuffled_batches,
)
from scripts.composition.run_start import settings_of
from scripts.composition.search import with_language_models
from scripts.composition.settings import settings_of_run, trains_on_text

log = logging.getLogger(__name__)


def assemble(config: DictConfig, folder: Path, world: World, hooks: Mapping[str, Hook]) -> Trainer:
    """Build every part of a run and return the trainer, ready to fit."""
    options: TrainerOptions = build(config.trainer)
    backend = _backend(config, world, hooks, options)
    fit_tokenizer(config, folder, world)
    material = build_material(config, folder)
    _refuse_doubles(config, material)
    description, model = _model(config, folder, material, hooks)
    precision = agree_on_precision(options.precision, model, folder, world)
    split = material.split("train")
    plan = build_plan(config, split, model, hooks.values())
    _check_same_plan(world, plan)
    loader: LoaderOptions = build(config.loader)
    cache = SignalCache(loader.cache_gb_per_process)
    evaluated = [evaluation_set(config, material, name, cache) for name in config.evaluation.sets]
    if world.rank == 0:
        refused = {split.name: split.screened.refused} | {each.name: each.screened.refused for each in evaluated}
        write_screening(folder, refused)
    feature_dimension = material.sizes.get("feature_dimension", 0)  # texts have none
    backend.examine(model, lambda: run_typical(model, plan, feature_dimension))
    module = backend.wrap(model.to(world.device))
    claimed = {name: hook.on_parameter_groups(model) for name, hook in hooks.items()}
    optimizer = _optimizer(config, model, claimed)
    backend.attach(optimizer)
    horizon = Horizon(total_samples(options, plan), plan.utterances, max(1, round(plan.nominal_batch)))
    log.info("%s", _headline(world, plan, material.amount(split), model, options, folder))
    dataset = material.dataset(split, list(hooks.items()), config.seed, cache)
    memory = MemoryGuard(subsampling=model.subsampling, budgets=plan.budgets)
    objective = Objective(
        module=module, backend=backend, hooks=hooks, memory=memory, device=world.device, precision=precision,
        idle=IdleGroups(model, [group for own in claimed.values() for group in own]), seed=config.seed,
    )  # fmt: skip
    run = Run(
        model=model, backend=backend, folder=folder, seed=config.seed, world=world, plan=plan,
        utterances=split.utterances, learning_rate=LearningRate(optimizer, build(config.schedule, horizon=horizon)),
        max_norm=options.max_norm,
        gradients=LossGradients(model=model, objective=objective, dataset=dataset, world=world),
        precision=precision, tokenizer=material.tokenizer,
        batches=lambda split, seed: shuffled_batches(evaluation_set(config, material, split, cache), seed),
    )  # fmt: skip
    saving: CheckpointOptions = build(config.checkpoint)
    clock = CheckpointClock(world, saving.every_minutes, lockstep=backend.lockstep)
    return Trainer(
        Parts(
            run=run,
            objective=objective,
            optimizer=optimizer,
            hooks=hooks,
            units=_unit_source(plan, options, world, backend, hooks, clock),
            dataset=dataset,
            evaluator=_evaluator(config, model, material, evaluated, world, loader, precision),
            checkpoints=_checkpoints(config, run, description, saving),
            clock=clock,
            recorder=_recorder(config, run, horizon, refused_before=len(split.screened.refused)),
            memory=memory,
            loader=loader,
        ),
        options,
    )


def _backend(config: DictConfig, world: World, hooks: Mapping[str, Hook], options: TrainerOptions) -> Backend:
    """The backend, once it is known to suit the hooks, the clipping and the number of learners."""
    _check_order(hooks)
    backend = build_backend(config, world)
    _check_pace(hooks, backend)
    warn_if_alone(backend, world, config)
    backend.check_clipping(options.max_norm)
    return backend


def _model(
    config: DictConfig, folder: Path, material: Material, hooks: Mapping[str, Hook]
) -> tuple[Description, SpeechModel]:
    """The model to train, with the modules that train beside it, and its description for model folders."""
    earlier = newest_description(RunFolder(folder).checkpoints)
    description = describe(config, material, hooks, earlier)
    model = hooked_model(config, material, hooks, description, resumed=earlier is not None)
    attach_auxiliaries(model, hooks)
    return description, model


def _optimizer(config: DictConfig, model: SpeechModel, claimed: Mapping[str, Sequence[ParameterGroup]]) -> Optimizer:
    """The optimizer, with the groups that hooks have claimed."""
    _check_idle(claimed, config)
    groups = parameter_groups(model, claimed, config.optimizer.weight_decay)
    optimizer: Optimizer = build(config.optimizer, groups=groups)
    return optimizer


def _checkpoints(config: DictConfig, run: Run, description: Description, saving: CheckpointOptions) -> CheckpointFolder:
    """Where checkpoints of the run are written, with what their manifests and model folders say of it."""
    return CheckpointFolder(
        RunFolder(run.folder).checkpoints,
        run.world,
        saving.retention,
        type(run.backend).__name__,
        run.plan.fingerprint,
        ModelParts(description, run.tokenizer),
        settings_of(config),
        saving.in_background,
    )


def warn_if_alone(backend: Backend, world: World, config: DictConfig) -> None:
    """Warn if the backend mixes weights with those of other learners and there are none."""
    settings = settings_of_run(config)
    if world.size == 1 and not backend.synchronous and settings is not None:
        log.warning(
            "backend: one learner has nobody to mix its weights with, and trains as under backend=single; "
            "start several with torchrun --standalone --nproc-per-node 2 scripts/%s ...",
            settings.script,
        )


def _check_order(hooks: Mapping[str, Hook]) -> None:
    """Refuse a list of hooks in which one would undo another's work: within a stage they run as they are listed."""
    names = list(hooks)
    for position, (name, hook) in enumerate(hooks.items()):
        for late in names[position + 1 :]:
            if late in hook.comes_after:
                raise UsageError(f"hooks=[{','.join(names)}]: {late} must come before {name}; list them in that order")


def _check_pace(hooks: Mapping[str, Hook], backend: Backend) -> None:
    """Refuse hooks that need lockstep under a backend without it, and intervals of meetings below 1."""
    for name, hook in hooks.items():
        if hook.needs_lockstep and not backend.lockstep:
            raise UsageError(
                f"hooks=[{name}] needs all learners to make every step together, which {type(backend).__name__} does not; "
                "choose another backend=, or leave the hook out"
            )
        if hook.meets_every is not None and hook.meets_every < 1:
            raise UsageError(f"hooks.{name}: it meets every {hook.meets_every} global steps; that must be 1 or more")


def _check_idle(claimed: Mapping[str, Sequence[ParameterGroup]], config: DictConfig) -> None:
    """Moments are mixed once all learners have them for all parameters: those of a group that rests may never come."""
    for name, groups in claimed.items():
        if config.backend.get("mix_moments") and any(group.idle is not None for group in groups):
            raise UsageError(
                f"hooks.{name}: parameters of it rest in some steps and have no moments before their first one, which "
                "backend.mix_moments=true would wait for; set backend.mix_moments=false"
            )


def _refuse_doubles(config: DictConfig, material: Material) -> None:
    """Refuse evaluation sets of the same name, under which their metrics are stored."""
    sets = config.evaluation.sets
    refuse_doubles("evaluation.sets", sets, [material.set_name(each) for each in sets], splits=["train"])


def _recorder(config: DictConfig, run: Run, horizon: Horizon, refused_before: int) -> Recorder:
    return Recorder(
        writer=MetricsWriter(run.folder, run.world.rank),
        sinks=_sinks(config, run, horizon),
        refusals=Refusals(run.folder, run.world.rank, refused_before),
        subsampling=run.model.subsampling,
        epoch_samples=run.plan.utterances,
    )


def _check_same_plan(world: World, plan: BatchPlan) -> None:
    """Refuse learners that see different data: they would train on some utterances twice and on others never."""
    fingerprints = world.gather(plan.fingerprint)
    differing = [rank for rank, value in enumerate(fingerprints) if value != fingerprints[0]]
    if differing:
        raise UsageError(
            f"learners {differing} see other training data than learner 0 (utterances, lengths or tokens): "
            "put the corpus where all learners read the same files; on each host scripts/prepare.py says what it reads and leaves out"
        )


def _unit_source(
    plan: BatchPlan,
    options: TrainerOptions,
    world: World,
    backend: Backend,
    hooks: Mapping[str, Hook],
    clock: CheckpointClock,
) -> UnitSource:
    total = total_samples(options, plan)
    meetings = {name: hook.meets_every for name, hook in hooks.items() if hook.meets_every is not None}
    if backend.lockstep or world.size == 1:
        return LockstepUnits(plan, total, world.rank, world.size)
    return PooledUnits(
        plan,
        total,
        share=plan.units // world.size,
        marks=(options.evaluate_every, options.checkpoint_every, *meetings.values()),
        claim=world.claim,
        planned_mark=clock.planned_mark,
        pool=f"units/{world.gather(secrets.randbits(62))[0]}",  # a store may outlive the learners that filled it
    )


def _evaluator(
    config: DictConfig,
    model: SpeechModel,
    material: Material,
    evaluated: list[EvaluationSet],
    world: World,
    loader: LoaderOptions,
    precision: Precision,
) -> Evaluator:
    decode = None if trains_on_text(config) else with_language_models(build(config.decode), model, material.tokenizer)
    return Evaluator(
        sets=evaluated,
        measure=measure_of(model, decode, material.tokenizer),
        world=world,
        loader=loader,
        precision=precision,
    )


def _sinks(config: DictConfig, run: Run, horizon: Horizon) -> list[Logger]:
    """The sinks beside the metrics files; only the first learner has any."""
    if run.world.rank != 0:
        return []
    nodes = (config.get("logger") or {}).values()
    configured = [build(node, folder=run.folder, settings=plain(config)) for node in nodes]
    return [*configured, console_logger(horizon.total_samples, global_step(run.plan, horizon.total_samples))]


def _headline(
    world: World, plan: BatchPlan, amount: str, model: SpeechModel, options: TrainerOptions, folder: Path
) -> str:
    learners = "1 learner" if world.size == 1 else f"{world.size} learners"
    return (
        f"{learners}, {amount}, "
        f"{count_parameters(model) / 1e6:.2f} million parameters, "
        f"{plan.nominal_batch:.4g} utterances per global batch, at most {options.epochs} epochs, in {folder}"
    )
