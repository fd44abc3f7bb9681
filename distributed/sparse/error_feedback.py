"""Sparse gradients with error feedback: what is not sent now is remembered, and sent later.

    p_i  =  m_i + g_i
    g    =  mean of the learners' p_i, each at the positions that are sent
    m_i  <-  (1 - beta) m_i + beta (p_i - sent_i)                sum over steps of (g_i - sent_i)  =  m_i / beta

Exactly: after any steps, what a learner's gradients amount to beyond what it sent is m_i / beta. With beta = 1 this is
classic error feedback; a smaller one is the low-pass filter of ScaleCom (arXiv 2104.11125, section 3.1), which keeps
the noise of large learning rates out of the memory. Where values travel in bf16, what rounding takes from them stays in
the memory too; the rounding of the sum over learners does not.
"""

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from distributed.backend import State
from distributed.learners.world import World
from distributed.parameters.flat_parameters import FlatParameters
from distributed.ranges import Count, Natural, Range
from distributed.sparse.compressed import CompressedBackend
from distributed.sparse.rates import rates_of, summary
from distributed.sparse.regime import payments, too_short
from distributed.sparse.segments import (
    Entries,
    Index,
    Segment,
    add_entries,
    by_rate,
    elements_sent_whole,
    entries,
    remember,
    segments_of,
    taken,
)
from distributed.sparse.uses import HIGHEST_RATE, count_uses, rate_by_uses

Rate = Count | Literal["auto"]
Beta = Annotated[float, Range(low=0, high=1, open_low=True)]
Values = Literal["full", "bfloat16"]

log = logging.getLogger(__name__)


class SparseFeedback(CompressedBackend):
    """Sends one entry in ``rate`` of the gradients; subclasses say which, and how they are averaged.

    ``auto`` gives each parameter the rate that follows from how often it is used (distributed/sparse/uses.py). Parameters of
    optimizer groups with ``compress=False`` are dense, frozen ones are not sent. The memory lies as the gradients do.
    """

    def __init__(
        self,
        *,
        rate: Rate,
        rates: list[tuple[str, int]],
        values: Values,
        beta: Beta,
        warmup_steps: Natural,
        refresh_moments: Count | None,
        refresh_batches: Count,
        world: World,
    ) -> None:
        super().__init__(
            warmup_steps=warmup_steps, refresh_moments=refresh_moments, refresh_batches=refresh_batches, world=world
        )
        self.rate = rate
        self.rates = rates
        self.values = values
        self.beta = beta
        self.rate_by_uses: dict[str, int] = {}  # under ``auto``: every parameter's rate by its uses alone
        self.rates_found: dict[str, int] = {}  # the rate finally used for every trained parameter
        self._named: dict[str, nn.Parameter] = {}
        self.segments: list[Segment] = []
        self.memory: list[Tensor] = []  # m: one buffer of shape (elements,) for each buffer of flat gradients

    def examine(self, model: nn.Module, forward: Callable[[], object]) -> None:
        """Under ``auto``, count the uses of parameters; all learners take the counts of learner 0."""
        if self.rate == "auto":
            counted = count_uses(model, forward)
            uses = torch.tensor(list(counted.values()), dtype=torch.float64)
            self.world.broadcast(uses, source=0)
            self.rate_by_uses = {name: rate_by_uses(each) for name, each in zip(counted, uses.tolist(), strict=True)}

    @property
    def typical_rate(self) -> int:
        """The rate of most parameters; under ``auto`` the highest."""
        return HIGHEST_RATE if self.rate == "auto" else self.rate

    def check_steps(self, steps: int) -> None:
        """Warn of a run in which what is not sent is hardly ever paid, by the typical rate."""
        warning = too_short(max(0, steps - self.warmup_steps), self.typical_rate, self.beta)
        if warning is not None and self.world.rank == 0 and steps > self.warmup_steps:
            log.warning("%s", warning)

    def wrap(self, model: nn.Module) -> nn.Module:
        self._model, self._named = model, dict(model.named_parameters())
        self._lay_out()
        return model

    def attach(self, optimizer: Optimizer) -> None:
        super().attach(optimizer)
        if self.uncompressed:
            self._lay_out()
        log.info("%s", summary(self.model, self.rates_found))

    def begin_step(self, local_weight: float, planned_weight: float) -> float:
        if self._trained() != self.rates_found.keys():  # something was frozen, or is no longer
            self._lay_out()
        return super().begin_step(local_weight, planned_weight)

    def _trained(self) -> set[str]:
        return {name for name, parameter in self._named.items() if parameter.requires_grad}

    def _lay_out(self) -> None:
        """Determine the rate of every parameter, and lay out parameters, gradients and memory in flat buffers by it."""
        if self.rate == "auto" and not self.rate_by_uses:
            raise RuntimeError("with backend.rate=auto, backend.examine(model, forward) comes before wrap")
        rate = self.rate_by_uses if self.rate == "auto" else self.rate
        trained, every = self._trained(), rates_of(self.model, rate, self.rates, self.uncompressed)
        self.rates_found = rates = {name: own for name, own in every.items() if name in trained}
        before, memory = self._flat, self.memory
        buckets = self._buckets(list(rates))
        self._flat = FlatParameters(self.model, gradients=True, order=by_rate(rates, buckets))
        self.segments = segments_of(self._flat, rates, buckets)
        self.memory = [torch.zeros_like(gradient) for gradient in self._flat.flat_grad]
        if before is not None:
            copy_views(before.named_views(memory), self._flat.named_views(self.memory))

    def _buckets(self, trained: Sequence[str]) -> dict[str, int]:
        """Bucket of each parameter: those of a bucket are sent together, buckets in order. Here all are in bucket 0."""
        return dict.fromkeys(trained, 0)

    @abstractmethod
    def _select(self, memory: Sequence[Tensor], gradient: Sequence[Tensor]) -> list[Index]:
        """The entries that this learner sends of each segment; may communicate."""

    def _agree(self, indices: Sequence[Index], message: Tensor, usable: bool) -> list[Entries] | None:
        """The entries that all learners apply, to be added up; None if the gradient of any learner was not ``usable``.

        ``message`` holds this learner's own entries at ``indices`` and may be overwritten. This method takes the mean
        of each entry, for schemes in which all learners have chosen the same ones.
        """
        mean = self._average(message, usable, elements_sent_whole(self.segments), self._dtype)
        return None if mean is None else entries(self.segments, indices, mean)

    @property
    def _dtype(self) -> torch.dtype:
        """The widest dtype of the gradients, in which means are taken; sums over learners are in that of messages."""
        return reduce(torch.promote_types, (gradient.dtype for gradient in self.flat.flat_grad))

    @torch.no_grad()
    def _reduce(self, usable: bool) -> bool:
        indices = self._select(self.memory, self.flat.flat_grad)
        message, unsent = self._taken(self.segments, indices)
        agreed = self._agree(indices, message, usable)
        if agreed is not None:
            self._apply(entries(self.segments, indices, unsent), agreed)
        return agreed is not None

    def _taken(self, segments: Sequence[Segment], indices: Sequence[Index]) -> tuple[Tensor, Tensor]:
        """This learner's p at the chosen positions, rounded as it is sent, and the rest that rounding takes from it."""
        return taken(segments, self.memory, self.flat.flat_grad, indices, self.values == "bfloat16")

    def _apply(self, unsent: Sequence[Entries], agreed: Sequence[Entries]) -> None:
        """Update the memory with what was not sent, and set the gradient to the agreed entries."""
        remember(self.memory, self.flat.flat_grad, unsent, self.beta)
        self.flat.zero_grad()
        add_entries(self.flat.flat_grad, agreed)

    def _average_all(self, usable: bool) -> bool:
        ends = {segment.buffer: segment.start + segment.length for segment in self.segments}  # the last of each buffer
        messages = (self.flat.flat_grad[buffer][:end] for buffer, end in ends.items())
        return all(self._average(each, usable, each.numel()) is not None for each in messages)

    def metrics(self) -> dict[str, float]:
        paid = payments(max(0, self.step - self.warmup_steps), self.typical_rate, self.beta)
        return super().metrics() | {"comm/payments": paid}

    def state_dict(self) -> State:
        return super().state_dict() | {"memory": self.flat.named_views(self.memory)}

    def load_state_dict(self, states: Sequence[Mapping[str, Any]], rank: int, world_size: int) -> None:
        super().load_state_dict(states, rank, world_size)
        restore_memory(self.flat.named_views(self.memory), [state["memory"] for state in states], rank, world_size)


def copy_views(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Copy tensors by name from one layout of the same parameters into another."""
    for name, view in target.items():
        view.copy_(source[name])


def restore_memory(
    views: Mapping[str, Tensor], memories: Sequence[Mapping[str, Tensor]], rank: int, world_size: int
) -> None:
    """Copy a learner's saved memory into ``views``; if the number of learners changed, each gets the mean of all.

    The mean keeps the total that the learners have not yet sent, the mean of m_i / beta.
    """
    sources = [memories[rank]] if len(memories) == world_size else memories
    for name, view in views.items():
        view.zero_()
        for memory in sources:
            view.add_(memory[name].to(view), alpha=1 / len(sources))
