"""What scripts/doctor.py says of a run on this machine: its memory, its pace, and what cannot work or seldom does.

The run is put together as training does it, alone and in a folder that is removed again. What training would refuse is an
error, what it would warn of a warning.
"""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from omegaconf import DictConfig

from asr.data.plan import check_learners
from asr.foreign.terminal import ShownFormatter
from asr.training.allocator import keep_freed_memory
from asr.training.meter import meter_of
from asr.training.pace import Pace, measured_pace
from asr.training.precision import choose_matmul, flush_denormals
from asr.training.probe import Probe, probe_memory
from asr.training.processor import usable_cores
from asr.training.state import gradients_dropped, untouched, update_taken_back
from asr.training.trainer import Trainer
from asr.training.units import global_step
from distributed.errors import UserError
from distributed.learners import launch
from distributed.learners.environment import Place
from distributed.learners.world import World
from scripts.composition.build import build_hooks
from scripts.composition.checkup.domain import compare_words
from scripts.composition.checkup.finding import Finding, error, ok, warning
from scripts.composition.compose import compose, run_folder
from scripts.composition.run_start import check_folder
from scripts.composition.settings import trains_on_text
from scripts.composition.trainer import assemble
from scripts.composition.trainer_checks import warn_if_alone

FEW_HOURS = 0.5  # of training speech for a model that is drawn anew


def check_run(entry_point: str, overrides: Sequence[str], learners: int) -> Iterator[Finding]:
    """Findings about the run that ``overrides`` describe, with so many learners, all on this host."""
    try:
        config = compose(entry_point, overrides)
        check_folder(run_folder(config, overrides), config)
        check_learners(config.batch.units, learners)
        with _warnings() as warned:
            found = list(_examined(config, learners))
    except UserError as refused:
        yield error("run", str(refused))
        return
    yield from found
    yield from (warning("run", line) for line in dict.fromkeys(warned))


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collects the lines that training would log as warnings."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    collector = Collector(logging.WARNING)
    collector.setFormatter(ShownFormatter("%(message)s"))
    logging.getLogger().addHandler(collector)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(collector)


def _examined(config: DictConfig, learners: int) -> Iterator[Finding]:
    options = config.launch
    flush_denormals()
    keep_freed_memory()
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="doctor-")))
        alone = Place(rank=0, size=1, local_rank=0, local_size=1, launched=False)
        world = launch.start(
            alone, join_seconds=options.join_seconds, timeout_seconds=options.timeout_seconds, patience_seconds=None,
            device=options.device, threads=options.threads,
        )  # fmt: skip
        closing.callback(launch.stop, world)
        choose_matmul(options.matmul)  # whose first product fixes how many kernels are kept
        trainer = assemble(config, folder, world, build_hooks(config))
        for hook in trainer.parts.hooks.values():
            closing.callback(hook.close)
        closing.callback(trainer.backend.close)
        closing.callback(trainer.parts.checkpoints.close)
        closing.callback(trainer.parts.recorder.close)
        warn_if_alone(trainer.backend, learners, config)
        yield from _data(config, trainer)
        yield from _measured(config, trainer, world, learners)


def _data(config: DictConfig, trainer: Trainer) -> Iterator[Finding]:
    """How much there is to learn from, and whether a model to start from has met such words."""
    utterances = trainer.parts.run.utterances
    if not trains_on_text(config):
        hours = sum(each.duration for each in utterances) / 3600
        amount = f"{len(utterances)} utterances, {hours:.2f} h"
        if hours < FEW_HOURS and config.init_from is None:
            yield warning(
                "data",
                f"{amount}: a model that is drawn anew learns these voices and words by heart; start from a trained one "
                "(init_from=exp/...), or add speech",
            )
        else:
            yield ok("data", amount)
    yield from compare_words(config, [each.text for each in utterances])


def _measured(config: DictConfig, trainer: Trainer, world: World, learners: int) -> Iterator[Finding]:
    """Memory of the worst unit and steps per hour, from a few units that are computed."""
    parts, options = trainer.parts, trainer.options
    for hook in parts.hooks.values():
        hook.on_fit_start(parts.run, False)
    parts.objective.plan_step(trainer.progress)
    model, device = parts.run.model, world.device
    meter = meter_of(device, learners if device.type == "cpu" else 1)
    probe = Probe(parts.memory, meter, parts.objective.trial, options.memory_limit_gb)
    with untouched(model, parts.hooks, device), gradients_dropped(model), trainer.backend.accumulating():
        lines = probe_memory(probe, parts.plan, 0, parts.dataset.__getitem__, parts.optimizer)
        pace = _pace(trainer, device)
    for number, line in enumerate(lines):  # the second one, where there is one, says that units are split
        yield (warning if number else ok)("memory", f"{line}{'' if number else ' for each learner'}")
    yield _steps_per_hour(config, trainer, pace, learners)


def _pace(trainer: Trainer, device: torch.device) -> Pace:
    def finished(_: object) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    parts = trainer.parts
    with update_taken_back(parts.optimizer):
        return measured_pace(
            parts.plan,
            load=parts.dataset.__getitem__,
            compute=lambda batch: finished(parts.objective.backward(batch, divisor=1.0, last=True)),
            update=lambda: finished(parts.optimizer.step()),
        )


def _steps_per_hour(config: DictConfig, trainer: Trainer, pace: Pace, learners: int) -> Finding:
    """The pace of computing, with cores shared among learners where there are too few."""
    plan = trainer.parts.plan
    wanted = learners * config.launch.threads
    crowded = max(1.0, wanted / usable_cores()) if trainer.parts.world.device.type == "cpu" else 1.0
    lockstep = trainer.backend.lockstep
    computing = 3600 / (crowded * pace.of_step(plan, learners, lockstep=lockstep, reading=False))
    first_epoch = 3600 / (crowded * pace.of_step(plan, learners, lockstep=lockstep, reading=True))
    steps = global_step(plan, trainer.total_samples)
    text = (
        f"{computing:,.0f} steps per hour of computing ({first_epoch:,.0f} while utterances are read for the first time); "
        f"{steps:,} steps take {steps / computing:.2g} h, without exchange between learners and evaluations"
    )
    if crowded > 1:
        return warning("pace", f"{text}; {wanted} threads of learners share {usable_cores():g} cores")
    return ok("pace", text)
