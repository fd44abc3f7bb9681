"""Memory: how much a unit needs, in how many parts it is run, and what happens when memory runs out all the same.

A unit's loss is a sum over utterances, so that a unit may be run in parts, each with a backward of its own: the
gradient is the same sum. What a part needs is bounded from units that were measured (asr/training/probe.py). Where
memory is a constant c plus non-negative multiples of frames, lattice cells and attention cells, and each of these is at
most r times that of a unit measured with ``peak``, it is at most c + r (peak - c). Two measurements leave c between two
values: the bound takes the one that makes it larger.

B utterances   T feature frames   S encoder states   U target tokens
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch

from asr.data.batch import Batch, Unit
from asr.data.plan import BatchPlan, Budgets
from distributed.errors import UserError

Result = TypeVar("Result")


class MemoryShortageError(UserError, RuntimeError):
    """A unit does not fit into memory; the message names what to lower."""


@dataclass(frozen=True, slots=True)
class Load:
    """The quantities with which the memory of a unit grows, padding included."""

    utterances: int  # B
    frames: int  # B x T
    cells: int  # B x S x (U + 1), of the loss's lattice
    attention: int  # B x S x S, one head's scores

    def ratios(self, other: "Load") -> tuple[float, float, float]:
        """Frames, lattice cells and attention cells as multiples of those of another unit."""
        return self.frames / other.frames, self.cells / other.cells, self.attention / other.attention

    def __str__(self) -> str:
        return f"{self.utterances} x {self.frames // self.utterances:,} frames, {self.cells:,} cells"


def load_of_rows(batch: Batch, start: int, stop: int, subsampling: int) -> Load:
    """Load of the utterances ``start`` to ``stop`` - 1 of a loaded unit, at least one."""
    rows = slice(start, stop)
    frames, tokens = int(batch.feature_lengths[rows].max()), int(batch.target_lengths[rows].max())
    return _load(stop - start, frames, -(-frames // subsampling), tokens)


def load_of_unit(unit: Unit, plan: BatchPlan) -> Load:
    """Load of a unit that has not been loaded yet, from the lengths in the plan."""
    rows = list(unit.utterances)
    columns = (plan.frames, plan.encoder_frames, plan.planned_targets)
    return _load(len(rows), *(int(column[rows].max()) for column in columns))


def _load(utterances: int, frames: int, states: int, tokens: int) -> Load:
    return Load(utterances, utterances * frames, utterances * states * (tokens + 1), utterances * states * states)


@dataclass(frozen=True, slots=True)
class Measured:
    """Measured peak memory of forward and backward of a unit, beyond what is held between steps."""

    load: Load
    peak_bytes: float


@dataclass(frozen=True, slots=True)
class Needs:
    """The measurements so far, and the bound of the memory of a unit that follows from them."""

    measured: tuple[Measured, ...] = ()
    constant_bytes: tuple[float, float] = (0.0, 0.0)  # taken by any unit, however small: at least, at most

    def bound(self, load: Load) -> float:
        """Bytes that a unit needs at most beyond what is held between steps; 0 where nothing was measured."""
        return min((self._bound_from(each, load) for each in self.measured), default=0.0)

    def _bound_from(self, measured: Measured, load: Load) -> float:
        ratio = max(load.ratios(measured.load))
        low, high = self.constant_bytes
        constant = min(low if ratio > 1 else high, measured.peak_bytes)
        return constant + ratio * (measured.peak_bytes - constant)

    def including(self, new: Measured) -> "Needs":
        """These needs with one more measurement, and the widest range of the constant that any two of them give."""
        measured = (*self.measured, new)
        ranges = [_constants(small, large) for small in measured for large in measured if small is not large]
        lows, highs = [each[0] for each in ranges if each], [each[1] for each in ranges if each]
        return Needs(measured, (min(lows, default=0.0), max(highs, default=0.0)))


def _constants(small: Measured, large: Measured) -> tuple[float, float] | None:
    """The range of c if ``small`` takes c + r v and ``large`` c + v, with an r between the ratios of their loads."""
    ratios = small.load.ratios(large.load)
    if max(ratios) >= 1:
        return None

    def constant(r: float) -> float:
        return max(0.0, (small.peak_bytes - r * large.peak_bytes) / (1 - r))

    return constant(max(ratios)), constant(min(ratios))


def attempt(function: Callable[[], Result]) -> Result | None:
    """Call ``function`` and return its result; None, with its memory freed, where the device ran out of memory."""
    try:
        return function()
    except torch.OutOfMemoryError:
        pass  # the traceback holds the tensors of the frames it went through: they are free after this line
    torch.cuda.empty_cache()
    return None


def even_ranges(size: int, number: int) -> list[tuple[int, int]]:
    """(start, stop) of ``number`` parts of ``size`` utterances, as even as possible and in order."""
    return list(pairwise(size * part // number for part in range(number + 1)))


class MemoryGuard:
    """Decides in how many parts this learner runs a unit, and counts those run in more than one.

    ``available_bytes`` is what forward and backward may take; infinite until the probe has measured.
    """

    def __init__(self, *, subsampling: int, budgets: Budgets) -> None:
        self.subsampling = subsampling
        self.budgets = budgets
        self.needs = Needs()
        self.available_bytes = float("inf")
        self.split_units = 0
        self.exhausted = 0

    def load(self, batch: Batch) -> Load:
        """The load of a loaded unit."""
        return load_of_rows(batch, 0, len(batch.utterance_ids), self.subsampling)

    def parts(self, batch: Batch) -> list[Batch]:
        """The unit, or the fewest even parts of it whose bound fits; single utterances where no part does."""
        size = len(batch.utterance_ids)
        ranges: list[tuple[int, int]] = []
        for number in range(1, size + 1):
            ranges = even_ranges(size, number)
            loads = [load_of_rows(batch, start, stop, self.subsampling) for start, stop in ranges]
            if max(map(self.needs.bound, loads)) <= self.available_bytes:
                break
        return [batch.part(start, stop) for start, stop in ranges] if len(ranges) > 1 else [batch]

    def forward(self, function: Callable[[], Result]) -> Result | None:
        """Run a forward and return its result; None, and counted, where the device ran out of memory."""
        result = attempt(function)
        self.exhausted += result is None
        return result

    def halves(self, batch: Batch) -> list[Batch]:
        """Split a batch that did not fit into two.

        Raises:
            MemoryShortageError: it has only one utterance.
        """
        if len(batch.utterance_ids) < 2:
            raise MemoryShortageError(
                f"utterance {', '.join(batch.utterance_ids)} alone does not fit into memory: {self.load(batch)}; "
                f"{self._remedy(self.load(batch))}, or take a smaller model"
            )
        return [batch.part(start, stop) for start, stop in even_ranges(len(batch.utterance_ids), 2)]

    @contextmanager
    def backward(self, batch: Batch) -> Iterator[None]:
        """Wraps a backward, which cannot be repeated after a shortage: some gradients may be summed or sent by then.

        Raises:
            MemoryShortageError: the device's memory did not suffice.
        """
        try:
            yield
        except torch.OutOfMemoryError:
            load = self.load(batch)
            raise MemoryShortageError(
                f"out of memory in a backward, of {load}: it cannot be repeated, since a part of its gradients may "
                f"have been summed; set trainer.memory_limit_gb lower to go on from the last checkpoint, or "
                f"{self._remedy(load)} in a new run"
            ) from None

    def _remedy(self, load: Load) -> str:
        """Advice to lower the batch budget that the unit fills the most, to half of what the unit takes of it."""
        frames, cells = load.frames / self.budgets.frames, load.cells / self.budgets.cells
        key, budget, taken = (
            ("max_frames", self.budgets.frames, load.frames)
            if frames >= cells
            else ("max_cells", self.budgets.cells, load.cells)
        )
        return f"lower batch.{key}={budget} to {max(1, taken // 2)} or less"

    def count(self, split: bool) -> None:
        """Count a unit, ``split`` if it was run in several parts."""
        self.split_units += split

    def metrics(self) -> dict[str, float]:
        """Numbers of units run in parts, and of forwards that ran out of memory, since the last call."""
        figures = {"memory/split_units": float(self.split_units), "memory/exhausted": float(self.exhausted)}
        self.split_units = self.exhausted = 0
        return figures
