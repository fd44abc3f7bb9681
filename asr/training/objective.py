"""What training minimises: the loss of a unit with what hooks add to it, in as many parts as memory asks for.

The loss is a sum over utterances, divided by what the backend says; the gradients of a unit's parts sum to the unit's.
The trainer's step, the rehearsal, the probe of memory and measurements all come here, so that they run the same thing.
"""

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import nn

from asr.data.batch import Batch, keyed_seed
from asr.models.speech_model import LossOutput
from asr.training.hook import Hook, LossTerms
from asr.training.memory import MemoryGuard
from asr.training.precision import Precision, autocast
from distributed.backend import Backend


class Objective:
    """Forward and backward of units on one learner.

    Args:
        module: the backend's wrapper around the model.
        seed: of the run; dropout is keyed by it and the unit.
    """

    def __init__(
        self,
        *,
        module: nn.Module,
        backend: Backend,
        hooks: Mapping[str, Hook],
        memory: MemoryGuard,
        device: torch.device,
        precision: Precision,
        seed: int,
    ) -> None:
        self.module = module
        self.backend = backend
        self.hooks = hooks
        self.memory = memory
        self.device = device
        self.precision = precision
        self.seed = seed

    def backward(self, batch: Batch, divisor: float, last: bool) -> list[LossTerms]:
        """Forward and backward of a unit, or of one part after the other: the gradient is the same sum."""
        memory, done = self.memory, []
        waiting = memory.parts(batch)
        while waiting:
            part, *others = waiting
            final = last and not others  # in however many parts: one backward of a step communicates
            with nullcontext() if final else self.backend.accumulating():
                terms = self.forward(part, final)
                if terms is not None:
                    with memory.backward(part):
                        terms.objective(divisor).backward()
                    done.append(terms)
            waiting = others if terms is not None else [*memory.halves(part), *others]
        return done

    def forward(self, batch: Batch, last: bool) -> LossTerms | None:
        """The loss of a unit, or a part of one; None where the device's memory did not suffice for the model."""
        # Dropout depends on the unit alone: not on the number of learners, on evaluations or on a resume.
        torch.manual_seed(keyed_seed(self.seed, "dropout", batch.unit))
        batch = batch.to(self.device, torch.float64 if self.precision == "fp64" else None)
        with autocast(self.precision, self.device):
            output: LossOutput | None = self.memory.forward(lambda: self.module(batch))
        if output is None:
            return None
        terms = LossTerms(output.total, last, sums=dict(output.terms))
        for hook in self.hooks.values():
            hook.on_loss(batch, output, terms)
        return terms

    def trial(self, batch: Batch) -> LossTerms | None:
        """Forward and backward of a unit undivided; None where the device's memory did not suffice for the model."""
        if (terms := self.forward(batch, last=True)) is not None:
            terms.objective(divisor=1.0).backward()
        return terms
