"""Puts a trainer together from a configuration, in the order that asr/training/hook.py gives."""

import logging
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig
from torch.optim import Optimizer

from asr.data.cache import SignalCache
from asr.data.material import Material
from asr.data.plan import BatchPlan
from asr.models.speech_model import SpeechModel
from asr.parts import build, plain
from asr.runs.checkpoint import newest_description
from asr.runs.checkpoint_folder import CheckpointFolder
from asr.runs.console import console_logger
from asr.runs.left_out import Place, batches_left_out
from asr.runs.loggers import Logger
from asr.runs.metrics import MetricsWriter
from asr.runs.model_folder import Description, ModelParts
from asr.runs.run_folder import RunFolder
from asr.runs.timeline import TimelineWriter
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
from distributed.learners.world import World
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
from scripts.composition.settings import trains_on_text
from scripts.composition.trainer_checks import (
    check_fold,
    check_idle,
    check_order,
    check_pace,
    check_same_plan,
    refuse_doubled_sets,
)

log = logging.getLogger(__name__)


def assemble(config: DictConfig, folder: Path, world: World, hooks: Mapping[str, Hook]) -> Trainer:
    """Build every part of a run and return the trainer, ready to fit."""
    options: TrainerOptions = build(config.trainer)
    backend = _backend(config, world, hooks, options)
    check_fold(config)
    fit_tokenizer(config, folder, world)
    material = build_material(config, folder)
    refuse_doubled_sets(config, material)
    description, model = _model(config, folder, material, hooks)
    precision = agree_on_precision(options.precision, model, folder, world)
    split = material.split("train")
    plan = build_plan(config, split, model, hooks.values())
    left_out = frozenset(batches_left_out(folder))
    check_same_plan(world, plan, left_out)
    loader: LoaderOptions = build(config.loader)
    cache = SignalCache(loader.cache_gb_per_process)
    evaluated = [evaluation_set(config, material, name, cache) for name in config.evaluation.sets]
    if world.rank == 0:
        refused = {split.name: split.screened.refused} | {each.name: each.screened.refused for each in evaluated}
        write_screening(folder, refused)
    horizon = Horizon(total_samples(options, plan), plan.utterances, max(1, round(plan.nominal_batch)))
    _examine(backend, model, plan, horizon, material)
    module = backend.wrap(model.to(world.device))
    claimed = {name: hook.on_parameter_groups(model) for name, hook in hooks.items()}
    optimizer = _optimizer(config, model, claimed)
    backend.attach(optimizer)
    log.info("%s", _headline(world, plan, material.amount(split), model, options, folder))
    dataset = material.dataset(split, list(hooks.items()), config.seed, cache)
    memory = MemoryGuard(subsampling=model.subsampling, budgets=plan.budgets)
    objective = Objective(
        module=module, backend=backend, hooks=hooks, memory=memory, device=world.device, precision=precision,
        idle=IdleGroups(model, [group for own in claimed.values() for group in own]), seed=config.seed,
    )  # fmt: skip
    run = Run(
        model=model, description=description, backend=backend, folder=folder, seed=config.seed, world=world, plan=plan,
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
            units=_unit_source(plan, left_out, options, world, backend, hooks, clock),
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
    check_order(hooks)
    backend = build_backend(config, world)
    check_pace(hooks, backend)
    backend.check_clipping(options.max_norm)
    return backend


def _examine(backend: Backend, model: SpeechModel, plan: BatchPlan, horizon: Horizon, material: Material) -> None:
    """What a backend looks at before it wraps the model: the length of the run, and how a typical sample uses the model."""
    feature_dimension = material.sizes.get("feature_dimension", 0)  # texts have none
    backend.check_steps(horizon.total_samples // horizon.batch_samples)
    backend.examine(model, lambda: run_typical(model, plan, feature_dimension))


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
    check_idle(claimed, config)
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


def _recorder(config: DictConfig, run: Run, horizon: Horizon, refused_before: int) -> Recorder:
    return Recorder(
        writer=MetricsWriter(run.folder, run.world.rank),
        timeline=TimelineWriter(run.folder, run.world.rank, run.world.traffic),
        sinks=_sinks(config, run, horizon),
        refusals=Refusals(run.folder, run.world.rank, refused_before),
        subsampling=run.model.subsampling,
        epoch_samples=run.plan.utterances,
    )


def _unit_source(
    plan: BatchPlan,
    left_out: Collection[Place],
    options: TrainerOptions,
    world: World,
    backend: Backend,
    hooks: Mapping[str, Hook],
    clock: CheckpointClock,
) -> UnitSource:
    total = total_samples(options, plan)
    meetings = {name: hook.meets_every for name, hook in hooks.items() if hook.meets_every is not None}
    if backend.lockstep or world.size == 1:
        return LockstepUnits(plan, total, world.rank, world.size, world.gate, left_out)
    return PooledUnits(
        plan,
        total,
        share=plan.units // world.size,
        marks=(options.evaluate_every, options.checkpoint_every, *meetings.values()),
        claim=backend.claim,
        planned_mark=clock.planned_mark,
        pool=f"units/{world.gather(secrets.randbits(62))[0]}",  # a store may outlive the learners that filled it
        gate=world.gate,
        left_out=left_out,
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
