"""The hook that does a fault from within a learner, at a point of the training loop that the campaign has chosen.

What is done is read from a file beside the run, so that the command and the configuration of a disturbed run are those of
the run that goes on afterwards. learner.py puts the hook in.
"""

import ctypes
import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from asr.models.speech_model import SpeechModel
from asr.runs.progress import Progress
from asr.training.hook import Hook, Run
from distributed.backend import GradientReport
from distributed.gossip import neighbours, pairwise
from distributed.gossip.packing import Message

PLAN, PACE = "CHAOS_PLAN", "CHAOS_PACE"  # names of variables of the environment: file of the faults, seconds per step

Deed = Literal["kill", "crash", "stop", "hold", "signal", "disk", "weights", "gradients", "messages"]
Point = Literal["on_step_start", "on_gradients", "on_update", "on_step_end", "on_evaluation", "on_checkpoint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What a learner does once, at a point of the loop, in the first step at which the run stands at ``step`` or beyond."""

    deed: Deed
    learner: int
    step: int  # global
    point: Point = "on_step_start"
    seconds: float = 0.0  # hold
    number: int = 0  # signal: which one; disk: most bytes of a file
    bit: int | None = None  # numbers: the bit of a float32 that is flipped, 31 is its sign; None: NaN
    seed: int = 0  # numbers: which one of all
    attempt: int | None = (
        0  # how often the learners were started again before, by the launcher or by themselves; None: any
    )


def write_plan(path: Path, faults: Sequence[Fault]) -> None:
    """Replace the faults that the next start will do."""
    path.write_text(json.dumps([asdict(each) for each in faults]))
    fired_file(path).unlink(missing_ok=True)


def fired_file(plan: Path) -> Path:
    """Holds a line for each fault that was done: the clock, and its place in the plan."""
    return plan.with_suffix(".fired")


def fired(plan: Path) -> list[tuple[float, int]]:
    """When faults of the plan were done, by the clock, and their places in it."""
    path = fired_file(plan)
    lines = path.read_text().splitlines() if path.exists() else []
    return [(float(line.split()[0]), int(line.split()[1])) for line in lines]


def flipped(values: Tensor, index: int, bit: int | None) -> None:
    """Change one number of a tensor of float32, in place."""
    if bit is None:
        values.view(-1)[index] = float("nan")
    else:
        words = values.view(-1).view(torch.int32)
        words[index] ^= -(1 << 31) if bit == 31 else 1 << bit


class Injector(Hook):
    """Does the faults of ``plan`` that are for this learner; ``pace``: seconds that each step waits, so that a run lasts."""

    changes_training = False

    def __init__(self, *, plan: str, pace: float) -> None:
        self.plan = Path(plan).resolve()
        self.pace = pace
        self.left: list[tuple[int, Fault]] = []
        self.run: Run | None = None

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        attempt = sum(int(os.environ.get(name, "0")) for name in ("TORCHELASTIC_RESTART_COUNT", "MURMURATION_RETURNED"))
        planned = [Fault(**each) for each in json.loads(self.plan.read_text())]
        done = {place for _, place in fired(self.plan)}
        self.left = [
            (place, each)
            for place, each in enumerate(planned)
            if each.learner == run.world.rank and each.attempt in (None, attempt) and place not in done
        ]
        self.run = run

    def on_step_start(self, progress: Progress) -> None:
        time.sleep(self.pace)
        self._at("on_step_start", progress.global_step)
        self.step = progress.global_step

    def on_gradients(self, model: nn.Module, report: GradientReport) -> None:
        self._at("on_gradients", self.step)

    def on_update(self, model: SpeechModel, optimizer: Optimizer) -> None:
        self._at("on_update", self.step)

    def on_step_end(self, progress: Progress, metrics: dict[str, float]) -> None:
        self._at("on_step_end", self.step)

    def on_evaluation(self, progress: Progress, metrics: dict[str, float]) -> None:
        self._at("on_evaluation", progress.global_step)

    def on_checkpoint(self, progress: Progress) -> None:
        self._at("on_checkpoint", progress.global_step)

    def _at(self, point: Point, step: int) -> None:
        for place, fault in [each for each in self.left if each[1].point == point and step >= each[1].step]:
            self.left.remove((place, fault))
            with fired_file(self.plan).open("a") as file:
                file.write(f"{time.time()} {place}\n")
            assert self.run is not None
            DEEDS[fault.deed](fault, self.run)


def _kill(fault: Fault, run: Run) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _crash(fault: Fault, run: Run) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _stop(fault: Fault, run: Run) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _signal(fault: Fault, run: Run) -> None:
    os.kill(os.getpid(), fault.number)


def _hold(fault: Fault, run: Run) -> None:
    """Sleep with the lock of the interpreter held: no thread of this learner runs meanwhile."""
    ctypes.PyDLL(None).usleep(int(fault.seconds * 1e6))


def _disk(fault: Fault, run: Run) -> None:
    """No file of this learner may grow beyond so many bytes, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (fault.number, resource.RLIM_INFINITY))


def _parameter(fault: Fault, run: Run) -> tuple[nn.Parameter, int]:
    draw = random.Random(fault.seed)
    chosen = draw.choice([each for each in run.model.parameters() if each.requires_grad])
    return chosen, draw.randrange(chosen.numel())


@torch.no_grad()
def _weights(fault: Fault, run: Run) -> None:
    parameter, index = _parameter(fault, run)
    flipped(parameter.data, index, fault.bit)


def _gradients(fault: Fault, run: Run) -> None:
    """The next backward's gradient of one parameter has a changed number, before anything is sent of it."""
    parameter, index = _parameter(fault, run)

    def change(gradient: Tensor) -> Tensor:
        handle.remove()
        changed = gradient.clone(memory_format=torch.contiguous_format)
        flipped(changed, index, fault.bit)
        return changed

    handle = parameter.register_hook(change)


def _messages(fault: Fault, run: Run) -> None:
    """The next message of weights from a neighbour arrives with a changed number."""
    draw = random.Random(fault.seed)
    modules: tuple[Any, ...] = (neighbours, pairwise)
    originals: list[Callable[[Message, int], None]] = [each.refuse_non_finite for each in modules]

    def changed(message: Message, learner: int) -> None:
        for module, original in zip(modules, originals, strict=True):
            module.refuse_non_finite = original
        part = draw.choice([each for each in message if each.dtype == torch.float32])
        flipped(part, draw.randrange(part.numel()), fault.bit)
        originals[0](message, learner)

    for module in modules:
        module.refuse_non_finite = changed


DEEDS: dict[Deed, Callable[[Fault, Run], None]] = {
    "kill": _kill, "crash": _crash, "stop": _stop, "signal": _signal, "hold": _hold, "disk": _disk, "weights": _weights,
    "gradients": _gradients, "messages": _messages,
}  # fmt: skip
