"""The training objective: the loss of a unit plus the terms of hooks, run in as many parts as memory requires.

The loss is a sum over utterances, divided by the backend's divisor; the gradients of a unit's parts, and those of the
passes that a step makes over it, add up to the unit's gradient.
The trainer's step, the rehearsal, the probe of memory and measurements all come here, so that they run the same thing.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from asr.data.batch import Batch, keyed_seed
from asr.models.speech_model import LossOutput
from asr.runs.progress import Progress
from asr.training.hook import Hook
from asr.training.idle import IdleGroups
from asr.training.loss_terms import LossTerms
from asr.training.memory import MemoryGuard
from asr.training.passes import ORDINARY, ForwardPass, passes_of
from asr.training.precision import Precision, autocast
from distributed.backend import Backend


def seed_dropout(seed: int, unit: str, pass_name: str, device: torch.device) -> None:
    """Key dropout by the unit and the pass alone: not by the number of learners, evaluations or a resume."""
    key = keyed_seed(seed, "dropout", unit, *([pass_name] if pass_name else []))
    if device.type == "cpu":  # torch.manual_seed would note a stack trace for every other kind of device
        torch.default_generator.manual_seed(key)
    else:
        torch.manual_seed(key)


class Objective:
    """Forward and backward of units on one learner.

    Args:
        module: the backend's wrapper around the model.
        idle: groups that some steps leave unchanged.
        seed: the run's seed; dropout is keyed by it, the unit and the pass.
    """

    def __init__(
        self,
        *,
        module: nn.Module,
        backend: Backend,
        hooks: Mapping[str, Hook],
        memory: MemoryGuard,
        idle: IdleGroups,
        device: torch.device,
        precision: Precision,
        seed: int,
    ) -> None:
        self.module = module
        self.backend = backend
        self.hooks = hooks
        self.memory = memory
        self.idle_groups = idle
        self.passes: Sequence[ForwardPass] = ORDINARY  # passes of the current step
        self.idle: Sequence[nn.Parameter] = ()  # parameters that the current step leaves unchanged
        self.device = device
        self.precision = precision
        self.seed = seed

    def plan_step(self, progress: Progress) -> None:
        """Prepare for the step after ``progress``: find its passes and its idle parameters."""
        self.passes = passes_of(self.hooks, progress, self.backend.whole_last_backward)
        self.idle = self.idle_groups.at(progress)

    def backward(self, batch: Batch, divisor: float, last: bool) -> list[LossTerms]:
        """Forward and backward of a unit, whole or part by part: the gradient is the same sum."""
        memory, done = self.memory, []
        waiting = [(part, each) for part in memory.parts(batch) for each in self.passes]
        while waiting:
            (part, each), *others = waiting
            final = last and not others  # exactly one backward of a step communicates, in however many parts it runs
            with nullcontext() if final else self.backend.accumulating(), each.context():
                terms = self.forward(part, each, final)
                if terms is not None:
                    with memory.backward(part):
                        self._objective(terms, divisor).backward()
                    done.append(terms)
            waiting = others if terms is not None else [*((half, each) for half in memory.halves(part)), *others]
        return done

    def forward(self, batch: Batch, each: ForwardPass, last: bool) -> LossTerms | None:
        """The loss of a unit, or a part of one; None where the device's memory did not suffice for it."""
        seed_dropout(self.seed, batch.unit, each.name, self.device)
        batch = batch.to(self.device, torch.float64 if self.precision == "fp64" else None)

        def compute() -> LossTerms:
            with autocast(self.precision, self.device):
                output: LossOutput = self.module(batch)
                terms = LossTerms(output.total, last, sums=dict(output.terms), pass_name=each.name, weight=each.weight)
                for hook in self.hooks.values():
                    hook.on_loss(batch, output, terms)
            return terms

        return self.memory.forward(compute)

    def rehearse(self, batch: Batch) -> None:
        """``trial`` of a unit, or of as much of it as fits into memory."""
        batch, *_ = self.memory.parts(batch)
        while self.trial(batch) is None:
            batch, _ = self.memory.halves(batch)

    def trial(self, batch: Batch) -> LossTerms | None:
        """Forward and backward of a unit undivided; None where the device's memory did not suffice for a forward."""
        terms = None
        for each in self.passes:
            final = each is self.passes[-1]
            with nullcontext() if final else self.backend.accumulating(), each.context():
                terms = self.forward(batch, each, final)
                if terms is None:
                    return None
                self._objective(terms, divisor=1.0).backward()
        return terms

    def _objective(self, terms: LossTerms, divisor: float) -> Tensor:
        """The scalar whose backward is run; in the last one of a step every idle parameter gets a gradient of 0."""
        value = terms.objective(divisor)
        if not (terms.last and self.idle):
            return value
        return value + 0.0 * torch.stack([parameter.sum() for parameter in self.idle]).sum()
