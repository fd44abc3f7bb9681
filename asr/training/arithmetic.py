"""The precision that a run computes in: the configured one, or fp32 where a processor cannot compute bf16.

Not every processor can make an LSTM in bf16 (asr/models/recurrence.py). Models with one are then trained in fp32: with the
LSTM alone in fp32 they would run, at several times the time. The choice follows what processors can do and never how fast
they are; all learners make the same one, and a run that was begun in fp32 goes on in it, which ``arithmetic.json`` in its
folder says. Where bf16 runs but is slower than fp32, a warning is logged and the run keeps bf16.
"""

import json
import logging
from pathlib import Path

import torch
from torch import nn

from asr.foreign.json_text import read_json
from asr.models.recurrence import bf16_lstm_works
from asr.runs.files import write_atomically
from asr.runs.run_folder import RunFolder
from asr.training.precision import Precision, onednn_usable
from asr.training.processor import bf16_slowness, instruction_set
from distributed.learners.world import World

SLOWER = 1.5  # time of a linear layer in bf16 over fp32 from which to warn; below it a whole step may not be slower

log = logging.getLogger(__name__)


def agree_on_precision(wanted: Precision, model: nn.Module, folder: Path, world: World) -> Precision:
    """The precision that all learners compute in; collective, before training. Logs where it is not the wanted one."""
    if wanted != "bf16":
        return wanted
    unable = [rank for rank, flag in enumerate(world.gather(int(not bf16_possible(model, world.device)))) if flag]
    resumed = world.any(world.rank == 0 and any(RunFolder(folder).checkpoints.glob("step-*")))
    in_fp32 = world.any(world.rank == 0 and resumed and recorded(folder) == "fp32")
    if not unable and not in_fp32:
        if world.rank == 0:
            RunFolder(folder).arithmetic.unlink(missing_ok=True)  # left by a start that failed before training
        warn_if_slow(world)
        return "bf16"
    if unable:
        who = f"learners {unable}" if world.size > 1 else f"this processor ({instruction_set()})"
        log.warning("trainer.precision=bf16: %s cannot make the model's LSTM in bf16: the run computes in fp32", who)
    if in_fp32 and not unable:
        log.warning(
            "trainer.precision=bf16: the run was begun in fp32 (%s) and goes on in it",
            RunFolder(folder).arithmetic.name,
        )
    elif resumed and not in_fp32:
        log.warning("the run was begun in bf16: from here on its curve differs from an uninterrupted one by rounding")
    if world.rank == 0:
        write_atomically(
            RunFolder(folder).arithmetic, json.dumps({"precision": "fp32", "instruction_set": instruction_set()})
        )
    return "fp32"


def precision_for_decoding(wanted: Precision, model: nn.Module, folder: Path, device: torch.device) -> Precision:
    """The precision to decode a trained run in: as it was trained, or fp32 (logged) where the processor has no bf16."""
    if wanted != "bf16" or recorded(folder) == "fp32":
        return "fp32" if wanted == "bf16" else wanted
    if device.type == "cpu" and not (onednn_usable() and bf16_possible(model, device)):
        log.warning("trained in bf16, which this processor (%s) does not have: decoding in fp32", instruction_set())
        return "fp32"
    return wanted


def recorded(folder: Path) -> str | None:
    """The recorded precision of a run that computes in another one than configured; None for other runs."""
    path = RunFolder(folder).arithmetic
    return str(read_json(path).get("precision")) if path.exists() else None


def bf16_possible(model: nn.Module, device: torch.device) -> bool:
    """Whether every layer of the model can be computed in bf16 on this device."""
    return device.type != "cpu" or bf16_lstm_works() or not any(isinstance(each, nn.LSTM) for each in model.modules())


def warn_if_slow(world: World) -> None:
    """Warn where bf16 takes longer than fp32 on the slowest learner; collective."""
    hundredths = world.gather(round(100 * bf16_slowness()) if world.device.type == "cpu" else 0)
    if (worst := max(hundredths) / 100) > SLOWER:
        where = f"the processor of learner {hundredths.index(max(hundredths))}" if world.size > 1 else "this processor"
        log.warning(
            "trainer.precision=bf16 is slow on %s (%s): a linear layer takes %.1f times as long as in fp32; "
            "trainer.precision=fp32 would be faster",
            where,
            instruction_set(),
            worst,
        )
