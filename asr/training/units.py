"""The units that a learner processes in each of its steps: in lockstep with the others, or from a common pool.

Why a plan: the batches of a run are fixed before it starts, the same on all learners, so that they need no messages to
share the data and a resume is a seek. In lockstep a step of one learner is a step of all: they divide each global batch
of the plan among them. From a pool each learner takes the next units of the same plan as soon as it is free, so that a
fast one takes more. Learners then meet only at marks (evaluation, checkpoint, end): a mark closes a stretch of the
plan, and a learner reaches it when the stretch has no units left. So no unit is claimed but unprocessed at a mark.
While a stretch has plenty left, a learner's next claim is made as it trains the present one (asr/training/claims.py).
Where time decides when a checkpoint is due, learners agree on the end of a stretch when the first of them begins it.
"""

import math
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, takewhile
from typing import Protocol

from asr.data.batch import Unit
from asr.data.plan import BatchPlan
from asr.runs.left_out import Place
from asr.runs.progress import Progress
from asr.training.claims import ClaimsAhead
from asr.training.parts import TrainerOptions
from distributed.backend import Claim
from distributed.learners.stopping import Gate

# A stretch has plenty left while so many nominal batches are. Nearer to its end a learner claims only what it trains at
# once: a slow one would keep the others waiting at the mark with what it holds.
_PLENTY_BATCHES = 8


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one learner. Samples are utterances of all learners together, in the plan's order."""

    units: list[Unit]  # this learner's units; empty where a stretch of the pool has run out
    samples_before: int  # samples before this step; the learning rate follows them
    samples: int  # samples after these units
    position: tuple[int, int]  # (epoch, batch) of the next step
    together: bool  # whether every learner is at this point after the step: only then are marks acted upon
    planned_units: int  # units that all learners have together between this point and the last one with ``together``
    planned_weight: float  # a learner's share of what the plan gives such a step: what gossip divides a loss by


class UnitSource(Protocol):
    """Yields the steps of a learner."""

    def steps(self, start: Progress) -> Iterator[Step]:
        """All steps from ``start`` on until the run's samples are processed, or all learners have agreed to stop.

        They may be read ahead of the training, to load their units.
        """

    def begin(self, step: Step) -> bool:
        """Whether the step is to be trained; False where it lies beyond the point at which all have agreed to stop."""


@dataclass(frozen=True, slots=True)
class GlobalBatch:
    """A global batch and where the run stands around it."""

    units: list[Unit]
    samples_before: int
    samples: int
    position: tuple[int, int]  # (epoch, batch) that follows


def global_step(plan: BatchPlan, samples: int) -> int:
    """Number of nominal global batches in ``samples`` utterances; the guard against rounding is far below a sample."""
    return math.floor(samples / plan.nominal_batch + 1e-9)


def global_batches(
    plan: BatchPlan, start: Progress, total_samples: int, left_out: Collection[Place] = ()
) -> Iterator[GlobalBatch]:
    """The plan's global batches from ``start`` on until ``total_samples`` are processed; a resume is a seek.

    Those that are left out count their samples, without any units.
    """
    epoch, batch, samples = start.epoch, start.batch, start.samples
    while samples < total_samples:
        batches = plan.epoch(epoch)
        while batch < len(batches) and samples < total_samples:
            size = sum(len(unit.utterances) for unit in batches[batch])
            following = (epoch, batch + 1) if batch + 1 < len(batches) else (epoch + 1, 0)
            units = [] if (epoch, batch) in left_out else batches[batch]
            yield GlobalBatch(units, samples, samples + size, following)
            samples += size
            batch += 1
        epoch, batch = epoch + 1, 0


@dataclass(frozen=True, slots=True)
class LockstepUnits:
    """Every global batch is a step of every learner, who processes its share of it."""

    plan: BatchPlan
    total_samples: int
    rank: int
    world_size: int
    gate: Gate
    left_out: Collection[Place] = ()

    def steps(self, start: Progress) -> Iterator[Step]:
        """One step per global batch."""
        for each in global_batches(self.plan, start, self.total_samples, self.left_out):
            units = self.plan.learner_units(each.units, self.rank, self.world_size)
            planned = (each.samples - each.samples_before) / self.world_size
            yield Step(
                units, each.samples_before, each.samples, each.position, True, len(each.units), planned_weight=planned
            )

    def begin(self, step: Step) -> bool:
        """Asks when the step is about to be trained."""
        return self.gate.begin(lambda: step.samples)


@dataclass(frozen=True, slots=True)
class PooledUnits:
    """Learners claim the next units of the plan as they become free; all of them meet at the marks.

    Args:
        share: units of one step, G / L.
        marks: global steps between points at which learners must meet, for each reason to meet.
        claim: (name, number) -> ``number`` units that no other learner gets; ``Backend.claim``. Learners that step together
            stand at the same place of the plan, that of the whole step, as what depends on it must be the same for them.
        pool: name of this run's claims; a new one each time that learners start.
        planned_mark: (name of a stretch, global step at its start) -> global step at which it shall end at the latest,
            the same for all learners; None where only ``marks`` count.
    """

    plan: BatchPlan
    total_samples: int
    share: int
    marks: Sequence[int]
    claim: Callable[[str, int], Claim]
    pool: str
    gate: Gate
    left_out: Collection[Place] = ()
    planned_mark: Callable[[str, int], int | None] = lambda name, step: None

    def steps(self, start: Progress) -> Iterator[Step]:
        """This learner's claims, and a step without units at the end of each stretch."""
        stretch: list[GlobalBatch] = []
        planned: int | None = None
        for each in global_batches(self.plan, start, self.total_samples, self.left_out):
            if not stretch:
                name = f"{self.pool}/{each.samples_before}"
                planned = self.planned_mark(name, global_step(self.plan, each.samples_before))
            stretch.append(each)
            if each.samples >= self.total_samples or self._is_mark(each) or self._has_come(planned, each):
                processed = yield from self._claims(stretch)
                if processed:
                    end = stretch[processed - 1]
                    planned_units = sum(len(batch.units) for batch in stretch[:processed])
                    yield self._step([], end.samples, end.samples, end.position, planned_units)
                if processed < len(stretch):
                    return
                stretch = []

    def _has_come(self, step: int | None, batch: GlobalBatch) -> bool:
        return step is not None and global_step(self.plan, batch.samples) >= step

    def _is_mark(self, batch: GlobalBatch) -> bool:
        before, after = global_step(self.plan, batch.samples_before), global_step(self.plan, batch.samples)
        return any(after // every > before // every for every in self.marks)

    def _claims(self, stretch: Sequence[GlobalBatch]) -> Generator[Step, None, int]:
        """This learner's claims of a stretch; returns how many of its batches all learners together process."""
        units = [(unit, batch) for batch in stretch for unit in batch.units]
        first_sample = stretch[0].samples_before
        befores, afters = _samples_around(stretch)
        claimed = Claim(0, 0, 0)
        claims = ClaimsAhead(
            partial(self.claim, f"{self.pool}/{first_sample}", self.share),
            ahead=lambda claim: claim.step_first + _PLENTY_BATCHES * self.plan.units < len(units),
        )

        def claim() -> int:
            nonlocal claimed
            claimed = claims.next()
            return units[claimed.step_first][1].samples if claimed.step_first < len(units) else first_sample

        with closing(claims):
            while self.gate.begin(claim):
                if claimed.step_first >= len(units):
                    break
                own = [unit for unit, _ in units[claimed.first : claimed.first + self.share]]
                last = min(claimed.step_first + claimed.step_units, len(units)) - 1
                yield self._step(own, befores[claimed.step_first], afters[last], units[last][1].position, None)
        until = self.gate.until  # the end of a batch; the share divides the units of one
        if until is None:
            return len(stretch)
        whole = sum(batch.samples <= until for batch in stretch)
        # Batches without units that follow belong to it: a learner that ends the stretch has passed them.
        return whole + len(list(takewhile(lambda batch: not batch.units, stretch[whole:])))

    def begin(self, step: Step) -> bool:
        """True: the gate is asked before a step is yielded. Beyond the agreed point a claim made ahead is left."""
        return True

    def _step(
        self, units: list[Unit], before: int, samples: int, position: tuple[int, int], planned_units: int | None
    ) -> Step:
        """A step; with ``planned_units`` the end of a stretch, at which all learners are together."""
        # The nominal weight, not that of these units: dividing by the latter would give a small unit as large a step.
        planned = self.plan.nominal_batch / (self.plan.units // self.share)
        return Step(units, before, samples, position, planned_units is not None, planned_units or 0, planned)


def _samples_around(stretch: Sequence[GlobalBatch]) -> tuple[list[int], list[int]]:
    """Samples of the run before and after each unit of a stretch."""
    befores: list[int] = []
    afters: list[int] = []
    for batch in stretch:
        ends = list(accumulate((len(unit.utterances) for unit in batch.units), initial=batch.samples_before))
        befores += ends[:-1]
        afters += ends[1:]
    return befores, afters


def samples_of_steps(plan: BatchPlan, steps: int, epochs: int) -> int:
    """Number of utterances in the first ``steps`` global batches of a run, or in its ``epochs`` if those are fewer."""
    samples = 0
    for epoch in range(epochs):
        batches = plan.epoch(epoch)[:steps]
        samples += sum(len(unit.utterances) for batch in batches for unit in batch)
        steps -= len(batches)
        if steps == 0:
            break
    return samples


def total_samples(options: TrainerOptions, plan: BatchPlan) -> int:
    """Number of utterances that all learners of a run process together."""
    samples = options.epochs * plan.utterances
    if options.max_steps is None:
        return samples
    return min(samples, samples_of_steps(plan, options.max_steps, options.epochs))
