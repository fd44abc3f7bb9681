"""Train a recogniser: python scripts/train.py [key=value ...], or under torchrun for several learners.

    torchrun --standalone --nproc-per-node 2 scripts/train.py name=my-run backend=dpsgd data=synthetic

The same command again goes on where it stopped. Everything lands in exp/<name>/.
"""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from asr.training.checkpoint import CheckpointFolder, best_checkpoint, list_checkpoints
from asr.training.console import console_logger
from asr.training.evaluation import Evaluator
from asr.training.hook import Run
from asr.training.loggers import Logger, setup_logging
from asr.training.metrics import MetricsWriter, cut_former_learners, merge
from asr.training.parameter_groups import parameter_groups
from asr.training.precision import choose_matmul, flush_denormals
from asr.training.recorder import Recorder
from asr.training.schedule import Horizon, LearningRate
from asr.training.trainer import Parts, Trainer, TrainerOptions, total_samples
from distributed import launch
from distributed.launch import World
from scripts.build import (
    build,
    build_backend,
    build_hooks,
    build_model,
    build_plan,
    build_speech,
    count_parameters,
    evaluation_set,
    plain,
    readable,
)
from scripts.configuration import compose, differing_keys, print_help, run_name
from scripts.environment import environment
from scripts.startup import UsageError, run_main

log = logging.getLogger(__name__)

# What may change when a run goes on: nothing that its numbers depend on.
FREE_KEYS = ("resume", "logger", "loader", "launch", "checkpoint", "exp_dir", "trainer.log_every")


def main(arguments: list[str]) -> None:
    """Compose, check, join the other learners, train."""
    if print_help("train", arguments, __doc__ or ""):
        return
    place = launch.place()
    config = compose("train", arguments)
    folder = Path(config.exp_dir) / (config.name or run_name(arguments))
    _check_folder(folder, config)
    flush_denormals()
    with readable():
        options = config.launch
        world = launch.start(
            place, timeout_seconds=options.timeout_seconds, device=options.device, threads=options.threads
        )
    try:
        _train(config, folder, world)
    finally:
        launch.stop(world)


def _check_folder(folder: Path, config: DictConfig) -> None:
    """A folder belongs to one configuration; going on with another would mix two runs."""
    path = folder / "config.yaml"
    if not path.is_file():
        return
    if not config.resume:
        raise UsageError(f"{folder} holds a run and resume=false would overwrite it; choose another name= or remove it")
    earlier = OmegaConf.load(path)
    assert isinstance(earlier, DictConfig)
    differing = [
        key
        for key in differing_keys(earlier, config)
        if not any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)
    ]
    if differing:
        raise UsageError(
            f"{folder} holds a run with another configuration; it differs in {', '.join(differing)}: "
            "repeat its command to go on, or choose another name="
        )


def _train(config: DictConfig, folder: Path, world: World) -> None:
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    setup_logging(folder, world.rank)
    log.info("%s", choose_matmul(config.launch.matmul))
    with readable():
        trainer, recorder = _assemble(config, folder, world)
    if world.rank == 0:
        OmegaConf.save(config, folder / "config.yaml")
    checkpoint, problems = trainer.parts.checkpoints.newest()
    for problem in problems:
        log.warning("checkpoint passed over: %s", problem)
    if checkpoint is not None:
        log.info("%s", _resume_line(checkpoint.folder.name, checkpoint.world_size, world.size))
    if world.rank == 0:
        cut_former_learners(folder, checkpoint.progress.samples if checkpoint else -1, world.size)
    try:
        trainer.fit(checkpoint)
    finally:
        recorder.close()
    world.barrier()
    if world.rank == 0:
        merge(folder)
        _write_summary(folder, trainer, recorder, world)


def _resume_line(name: str, old_size: int, new_size: int) -> str:
    line = f"resuming from checkpoint {name}"
    if old_size != new_size:
        line += f": written by {old_size} learners, going on with {new_size} under the same batch plan"
    return line


def _assemble(config: DictConfig, folder: Path, world: World) -> tuple[Trainer, Recorder]:
    """Build every part, in the order that asr/training/hook.py gives."""
    backend = build_backend(config, world)
    options: TrainerOptions = build(config.trainer)
    speech = build_speech(config, folder, world)
    model = build_model(config, speech)
    if config.init_from is not None:
        _load_weights(model, Path(config.init_from))
    hooks = build_hooks(config)
    for hook in hooks.values():
        hooked = hook.on_model(model)
        model = hooked  # type: ignore[assignment]
    subsampling = model.encoder.subsampling
    split = speech.split("train")
    plan = build_plan(config, split, subsampling)
    plan.check_learners(world.size)
    module = backend.wrap(model.to(world.device))
    claimed = [group for hook in hooks.values() for group in hook.on_parameter_groups(model)]
    optimizer = build(config.optimizer, groups=parameter_groups(model, claimed, config.optimizer.weight_decay))
    backend.attach(optimizer)
    horizon = Horizon(total_samples(options, plan), plan.utterances, max(1, round(plan.nominal_batch)))
    sinks = _sinks(config, folder, world, horizon)
    recorder = Recorder(MetricsWriter(folder, world.rank), sinks, subsampling, plan.utterances)
    evaluator = Evaluator(
        sets=[evaluation_set(config, speech, name, config.loader.cache) for name in config.evaluation.sets],
        decode=build(config.decode),
        tokenizer=speech.tokenizer,
        world=world,
        loader=build(config.loader),
        precision=options.precision,
    )
    parts = Parts(
        run=Run(model, backend, folder, config.seed),
        world=world,
        module=module,
        optimizer=optimizer,
        learning_rate=LearningRate(optimizer, build(config.schedule, horizon=horizon)),
        hooks=hooks,
        plan=plan,
        dataset=speech.dataset(split, list(hooks.items()), config.seed, config.loader.cache),
        evaluator=evaluator,
        checkpoints=CheckpointFolder(folder / "checkpoints", world, build(config.checkpoint), type(backend).__name__),
        recorder=recorder,
        loader=build(config.loader),
    )
    seconds = sum(utterance.duration for utterance in split.utterances)
    log.info(
        "%d learners, %d utterances (%.2f h), %d parameters, %.4g utterances per global batch, %d epochs, in %s",
        world.size, plan.utterances, seconds / 3600, count_parameters(model), plan.nominal_batch, options.epochs, folder,
    )  # fmt: skip
    return Trainer(parts, options), recorder


def _load_weights(model: torch.nn.Module, run: Path) -> None:
    checkpoints, _ = list_checkpoints(run / "checkpoints")
    best = best_checkpoint(checkpoints)
    if best is None:
        raise UsageError(f"init_from={run}: no checkpoint there; give the folder of a trained run")
    model.load_state_dict(best.model_state())
    log.info("weights of %s", best.folder)


def _sinks(config: DictConfig, folder: Path, world: World, horizon: Horizon) -> list[Logger]:
    """Sinks beside the metrics files; the first learner alone has any."""
    if world.rank != 0:
        return []
    configured = [build(node, folder=folder, settings=plain(config)) for node in (config.get("logger") or {}).values()]
    return [*configured, console_logger(horizon.total_samples)]


def _write_summary(folder: Path, trainer: Trainer, recorder: Recorder, world: World) -> None:
    checkpoints, _ = list_checkpoints(folder / "checkpoints")
    best = best_checkpoint(checkpoints)
    summary: dict[str, Any] = {
        "learners": world.size,
        "backend": type(trainer.backend).__name__,
        "steps": trainer.progress.step,
        "samples": trainer.progress.samples,
        "final": recorder.latest,
        "best": None if best is None else {"checkpoint": best.folder.name, "wer": best.wer},
        "wall_seconds": recorder.wall_seconds,
        "environment": environment(),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2))
    if best is not None and best.wer is not None:
        log.info("done: best WER on the first evaluation set %.2f %% (%s)", 100 * best.wer, best.folder.name)


if __name__ == "__main__":
    run_main(main)
