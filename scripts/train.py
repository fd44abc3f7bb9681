"""Train a recogniser: python scripts/train.py [key=value ...], or under torchrun for several learners.

    torchrun --standalone --nproc-per-node 2 scripts/train.py name=my-run backend=dpsgd data=synthetic

The same command again goes on where it stopped. Everything lands in exp/<name>/.
"""

import json
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asr.data.plan import check_learners
from asr.training.checkpoint import best_checkpoint, list_checkpoints
from asr.training.loggers import setup_logging
from asr.training.metrics import cut_former_learners, merge
from asr.training.precision import choose_matmul, flush_denormals
from asr.training.trainer import Trainer
from distributed import launch
from distributed.launch import World
from scripts.assembly import assemble
from scripts.build import build_hooks, readable
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
        check_learners(config.batch.units, place.size)
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
        trainer = assemble(config, folder, world, build_hooks(config))
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
        trainer.parts.recorder.close()
    world.barrier()
    if world.rank == 0:
        merge(folder)
        _write_summary(folder, trainer, world)


def _resume_line(name: str, old_size: int, new_size: int) -> str:
    line = f"resuming from checkpoint {name}"
    if old_size != new_size:
        line += f": written by {old_size} learners, going on with {new_size} under the same batch plan"
    return line


def _write_summary(folder: Path, trainer: Trainer, world: World) -> None:
    checkpoints, _ = list_checkpoints(folder / "checkpoints")
    best = best_checkpoint(checkpoints)
    summary: dict[str, Any] = {
        "learners": world.size,
        "backend": type(trainer.backend).__name__,
        "steps": trainer.progress.step,
        "samples": trainer.progress.samples,
        "final": trainer.parts.recorder.latest,
        "best": None if best is None else {"checkpoint": best.folder.name, "wer": best.wer},
        "wall_seconds": trainer.parts.recorder.wall_seconds,
        "environment": environment(),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2))
    if best is not None and best.wer is not None:
        log.info("done: best WER on the first evaluation set %.2f %% (%s)", 100 * best.wer, best.folder.name)


if __name__ == "__main__":
    run_main(main)
