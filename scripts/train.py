"""Train a recogniser: python scripts/train.py [key=value ...], or under torchrun for several learners.

    torchrun --standalone --nproc-per-node 2 scripts/train.py name=my-run backend=dpsgd data=synthetic

The same command again goes on where it stopped. Everything lands in exp/<name>/.
"""

import fcntl
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asr.data.plan import check_learners
from asr.training.checkpoint import Checkpoint, best_checkpoint, list_checkpoints
from asr.training.emergency import Survivor, save_mean
from asr.training.files import write_atomically
from asr.training.loggers import setup_logging
from asr.training.measures import SHOWN
from asr.training.metrics import cut_former_learners, merge
from asr.training.precision import choose_matmul, flush_denormals
from asr.training.trainer import Trainer
from distributed import launch
from distributed.launch import World
from distributed.signs import LearnerLostError, Loss
from scripts.assembly import assemble
from scripts.build import build_hooks, readable
from scripts.configuration import compose, differing_keys, print_help, run_name
from scripts.environment import environment
from scripts.startup import LearnerError, UsageError, run_main

log = logging.getLogger(__name__)

# What may change when a run goes on: nothing that its numbers depend on, but for the last bits.
FREE_KEYS = (
    *("resume", "logger", "loader", "launch", "checkpoint", "exp_dir", "trainer.log_every"),
    *("trainer.memory_probe", "trainer.memory_limit_gb"),  # of the device; parts of a unit draw dropout of their own
)


def main(arguments: list[str]) -> None:
    """Train a recogniser."""
    train("train", arguments, __doc__ or "")


def train(config_name: str, arguments: list[str], usage: str) -> None:
    """Compose conf/<config_name>.yaml, check, join the other learners, train; ``usage`` is what --help says."""
    if print_help(config_name, arguments, usage):
        return
    place = launch.place()
    config = compose(config_name, arguments)
    folder = Path(config.exp_dir) / (str(config.name) if config.name is not None else run_name(arguments))
    _check_folder(folder, config)
    flush_denormals()
    with readable():
        check_learners(config.batch.units, place.size)
        options = config.launch
        world = launch.start(
            place,
            timeout_seconds=options.timeout_seconds,
            patience_seconds=options.patience_seconds,
            device=options.device,
            threads=options.threads,
        )
    try:
        with world.naming_the_lost(), _lock(folder, world):
            _train(config, folder, world)
    except UsageError as error:  # from here on learners may fail one by one: each says so
        _log_traceback(folder, world.rank)
        raise LearnerError(str(error)) from error
    except Exception:
        _log_traceback(folder, world.rank)
        raise
    finally:
        launch.stop(world)


@contextmanager
def _lock(folder: Path, world: World) -> Iterator[None]:
    """One training at a time in a folder: learners may outlive a launcher that was killed."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        taken = False
        if world.rank == 0:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                taken = True
        if world.any(taken):
            raise UsageError(f"another process is training in {folder}: stop it, or choose another name=")
        yield


def _log_traceback(folder: Path, rank: int) -> None:
    """Into the learner's log file: the terminal gets one line, or torch's own report."""
    log_file = folder / "logs" / f"rank-{rank}.log"
    if log_file.parent.is_dir():
        with log_file.open("a", encoding="utf-8") as file:
            file.write(traceback.format_exc())


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
    setup_logging(folder, world.rank)
    log.info("%s", choose_matmul(config.launch.matmul))
    with readable():
        trainer = assemble(config, folder, world, build_hooks(config))
    if world.rank == 0:
        write_atomically(folder / "config.yaml", OmegaConf.to_yaml(config))
    checkpoint, problems = trainer.parts.checkpoints.newest()
    for problem in problems:
        log.warning("checkpoint passed over: %s", problem)
    if checkpoint is not None:
        log.info("%s", _resume_line(checkpoint, world.size))
    if world.rank == 0:
        cut_former_learners(folder, checkpoint.progress.samples if checkpoint else -1, world.size)
    try:
        trainer.fit(checkpoint)
    except LearnerLostError as lost:
        _save_survivors(trainer, lost.loss, world)
        raise
    finally:
        trainer.parts.recorder.close()
    world.barrier()
    if world.rank == 0:
        merge(folder)
        _write_summary(folder, trainer, world)


def _save_survivors(trainer: Trainer, loss: Loss, world: World) -> None:
    """Under gossip each learner's weights are its own: those of the survivors are worth keeping."""
    if trainer.backend.synchronous or world.watch is None or loss.learner == world.rank:
        return
    checkpoints = trainer.parts.checkpoints
    save_mean(
        checkpoints.root,
        Survivor(rank=world.rank, world_size=world.size, launch_id=world.watch.launch_id, loss=loss),
        trainer.parts.run.model.state_dict(),
        progress=trainer.progress,
        run={"backend": checkpoints.backend, "plan": checkpoints.plan},
    )


def _resume_line(checkpoint: Checkpoint, learners: int) -> str:
    line = f"resuming from checkpoint {checkpoint.folder.name} ({checkpoint.backend})"
    if checkpoint.world_size != learners:
        line += f": written by {checkpoint.world_size} learners, going on with {learners} under the same batch plan"
    return line


def _write_summary(folder: Path, trainer: Trainer, world: World) -> None:
    checkpoints, _ = list_checkpoints(folder / "checkpoints")
    best = best_checkpoint(checkpoints)
    figure = trainer.parts.evaluator.measure.name
    summary: dict[str, Any] = {
        "learners": world.size,
        "backend": type(trainer.backend).__name__,
        "steps": trainer.progress.step,
        "samples": trainer.progress.samples,
        "final": trainer.parts.recorder.latest,
        "best": None if best is None else {"checkpoint": best.folder.name, figure: best.figure},
        "wall_seconds": trainer.parts.recorder.wall_seconds,
        "environment": environment(),
    }
    write_atomically(folder / "summary.json", json.dumps(summary, indent=2))
    if best is not None and best.figure is not None:
        log.info("done: best on the first evaluation set: %s (%s)", SHOWN[figure](best.figure), best.folder.name)


def run_and_leave(main: Callable[[list[str]], None]) -> None:
    """Run an entry point that trains, and end the process as learners do."""
    try:
        run_main(main)
    except SystemExit as ended:
        launch.leave(int(ended.code or 0))
    launch.leave(0)


if __name__ == "__main__":
    run_and_leave(main)
