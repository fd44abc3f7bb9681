"""A training run from its checked configuration to its summary, for scripts/train.py and scripts/train_lm.py."""

import json
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asr.data.plan import check_learners
from asr.runs.checkpoint import Checkpoint, best_checkpoint, list_checkpoints
from asr.runs.emergency import Survivor, save_mean
from asr.runs.files import write_atomically
from asr.runs.left_out import batches_left_out, confirm
from asr.runs.loggers import setup_logging
from asr.runs.metrics import SHOWN, cut_former_learners, merge
from asr.runs.run_folder import RunFolder
from asr.training.allocator import keep_freed_memory
from asr.training.precision import choose_matmul, flush_denormals
from asr.training.stopped import StoppedError
from asr.training.trainer import Trainer
from distributed.errors import LearnerError, UsageError, UserError
from distributed.learners import launch
from distributed.learners.environment import place
from distributed.learners.signs import LearnerLostError, Loss
from distributed.learners.world import World
from scripts.composition.build import build_hooks
from scripts.composition.coming_back import ComingBackError, come_back
from scripts.composition.compose import compose, run_folder
from scripts.composition.environment import environment
from scripts.composition.run_start import Start, check_folder, log_traceback, training_in
from scripts.composition.signals import stopping_on_signals
from scripts.composition.trainer import assemble
from scripts.composition.trainer_checks import warn_if_alone

log = logging.getLogger(__name__)


def train(config_name: str, arguments: list[str]) -> None:
    """Compose conf/<config_name>.yaml, check, join the other learners, train."""
    here = place()
    config = compose(config_name, arguments)
    folder = run_folder(config, arguments)
    check_folder(folder, config)
    flush_denormals()
    keep_freed_memory()
    check_learners(config.batch.units, here.size)
    options = config.launch
    world = launch.start(
        here,
        join_seconds=options.join_seconds,
        timeout_seconds=options.timeout_seconds,
        patience_seconds=options.patience_seconds,
        device=options.device,
        threads=options.threads,
    )
    try:
        _train_in(config, folder, world)
    except ComingBackError as back:
        come_back(back.error)


def _train_in(config: DictConfig, folder: Path, world: World) -> None:
    try:
        with world.naming_the_lost(), training_in(folder, world) as start:
            _train(config, folder, world, start)
    except StoppedError:
        raise
    except UsageError as error:  # from here on learners may fail one by one: each says so
        log_traceback(folder, world.rank)
        raise LearnerError(str(error)) from error
    except Exception:
        log_traceback(folder, world.rank)
        raise
    finally:
        launch.stop(world)


def _train(config: DictConfig, folder: Path, world: World, start: Start) -> None:
    with start.until_fit():
        setup_logging(folder, world.rank)
        world.barrier()  # no learner makes a log after learner 0 has taken a failed start back
        trainer, checkpoint = _prepare(config, folder, world)
    before = trainer.progress.step if checkpoint is None else checkpoint.progress.step
    start.has_trained = lambda: trainer.progress.step > before
    try:
        with stopping_on_signals(world):
            trainer.fit(checkpoint)
    except UserError as error:
        if trainer.comes_back(error):
            raise ComingBackError(error) from error
        if isinstance(error, LearnerLostError):
            _save_survivors(trainer, error.loss, world)
        raise
    finally:
        trainer.parts.recorder.close()
    world.barrier()
    if world.rank == 0:
        merge(folder)
        _write_summary(folder, trainer, world)


def _prepare(config: DictConfig, folder: Path, world: World) -> tuple[Trainer, Checkpoint | None]:
    """Build a trainer that is ready to fit, and find the checkpoint to resume from."""
    log.info("%s", choose_matmul(config.launch.matmul))
    trainer = assemble(config, folder, world, build_hooks(config))
    warn_if_alone(trainer.backend, world.size, config)
    if world.rank == 0:
        write_atomically(RunFolder(folder).config, OmegaConf.to_yaml(config))
    checkpoint, problems = trainer.parts.checkpoints.newest()
    for problem in problems:
        log.warning("checkpoint passed over: %s", problem)
    if world.rank == 0:
        _log_left_out(folder, checkpoint)
    if checkpoint is not None:
        log.info("%s", _resume_line(checkpoint, world.size))
    if world.rank == 0:
        cut_former_learners(folder, checkpoint.progress.samples if checkpoint else -1, world.size)
    return trainer, checkpoint


def _log_left_out(folder: Path, checkpoint: Checkpoint | None) -> None:
    """Log the global batches that the run leaves out from here on, or has left out before."""
    confirm(folder, (0, 0) if checkpoint is None else (checkpoint.progress.epoch, checkpoint.progress.batch))
    if left_out := batches_left_out(folder):
        places = ", ".join(f"{batch} of epoch {epoch}" for epoch, batch in left_out)
        root = RunFolder(folder).left_out
        log.warning("global batches %s are left out: numbers were bad after them (%s)", places, root)


def _save_survivors(trainer: Trainer, loss: Loss, world: World) -> None:
    """Under gossip, save the mean of the survivors' weights: no other learner holds the same ones."""
    if trainer.backend.synchronous or world.watch is None or loss.learner == world.rank:
        return
    checkpoints, weights = trainer.parts.checkpoints, trainer.parts.run.model.state_dict()
    if not all(bool(each.isfinite().all()) for each in weights.values()):
        log.error("this learner's weights are not finite: they are in no emergency checkpoint")
        return
    try:
        save_mean(
            checkpoints.root,
            Survivor(rank=world.rank, world_size=world.size, launch_id=world.watch.launch_id, loss=loss),
            weights,
            parts=checkpoints.model,
            progress=trainer.progress,
            run={"backend": checkpoints.backend, "plan": checkpoints.plan, "settings": checkpoints.settings},
        )
    except OSError as error:  # the loss is still what this run ends with: its cause may be the same full disk
        log.error("this learner's weights are in no emergency checkpoint: %s", error)


def _resume_line(checkpoint: Checkpoint, learners: int) -> str:
    line = f"resuming from checkpoint {checkpoint.folder.name} ({checkpoint.backend})"
    if checkpoint.world_size != learners:
        line += f": written by {checkpoint.world_size} learners, going on with {learners} under the same batch plan"
    return line


def _write_summary(folder: Path, trainer: Trainer, world: World) -> None:
    checkpoints, _ = list_checkpoints(RunFolder(folder).checkpoints)
    best = best_checkpoint(checkpoints)
    figure = trainer.parts.evaluator.measure.name
    summary: dict[str, Any] = {
        "learners": world.size,
        "backend": type(trainer.backend).__name__,
        "precision": trainer.parts.objective.precision,  # what it was computed in, where a processor cannot do as configured
        "steps": trainer.progress.step,
        "samples": trainer.progress.samples,
        "final": trainer.parts.recorder.latest,
        "best": None if best is None else {"checkpoint": best.folder.name, figure: best.figure},
        "wall_seconds": trainer.parts.recorder.wall_seconds,
        "environment": environment(),
    }
    write_atomically(RunFolder(folder).summary, json.dumps(summary, indent=2))
    if best is not None and best.figure is not None:
        log.info("done: best on the first evaluation set: %s (%s)", SHOWN[figure](best.figure), best.folder.name)
