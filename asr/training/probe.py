"""The probe: the worst units of the plan are run once before training, so that a shortage of memory shows at once.

    warm-up on one utterance  ->  optimizer step  ->  that utterance, measured  ->  the worst units, measured

The worst unit by frames, by lattice cells and by attention cells may be three different ones. None is run whole until
measurements of smaller ones show that it fits. Everything happens on this learner alone and leaves no trace: weights,
moments, gradients, buffers, hook states and generators are restored.
"""

import logging
from collections.abc import Callable, Sequence

from torch.optim import Optimizer

from asr.data.batch import Batch, Unit
from asr.data.plan import BatchPlan
from asr.training.memory import Load, Measured, MemoryGuard, MemoryShortageError, attempt, load_of_unit
from asr.training.meter import Meter
from asr.training.state import parameters_of, state_bytes, update_taken_back

GIB = 2**30
REFINEMENTS = 3  # most measurements of ever larger parts of a unit that is too large to be run whole

log = logging.getLogger(__name__)


def worst_units(units: Sequence[Unit], plan: BatchPlan) -> list[Unit]:
    """The units with the most frames, lattice cells and attention cells, each once."""
    loads = [load_of_unit(unit, plan) for unit in units]
    places = {
        max(range(len(units)), key=lambda i: getattr(loads[i], what)) for what in ("frames", "cells", "attention")
    }
    return [units[place] for place in sorted(places)]


class Probe:
    """Measures units and passes the measurements on to the guard.

    Args:
        run: forward and backward of a unit or part; None where the device's memory did not suffice in the forward.
        limit_gb: GiB that this learner may hold in all; None: what the meter says.
    """

    def __init__(
        self, guard: MemoryGuard, meter: Meter, run: Callable[[Batch], object | None], limit_gb: float | None
    ) -> None:
        self.guard = guard
        self.meter = meter
        self.run = run
        self.limit_gb = limit_gb
        self.failed: list[Load] = []
        self.held_bytes = 0.0  # memory held between steps: weights, gradients, moments
        self.update_bytes = 0.0  # further memory that the optimizer's step takes

    def measure(self, batches: Sequence[Batch], optimizer: Optimizer) -> None:
        """Measure the optimizer's step and the worst units.

        Raises:
            MemoryShortageError: not even one utterance of them fits.
        """
        missing = [parameter for parameter in parameters_of(optimizer) if parameter.grad is None]
        longest = max(batches, key=lambda batch: batch.features.shape[1])
        row = int(longest.feature_lengths.argmax())
        single = longest.part(row, row + 1)
        if attempt(lambda: self.run(single)) is None:  # also takes what is taken only once: workspaces, gradients
            self.guard.halves(single)
        # Gradients made by this run lie, in training, in a backend's buckets, which exist already.
        extra_bytes = sum(parameter.grad.nbytes for parameter in missing if parameter.grad is not None)
        made_bytes = self._measure_update(optimizer)
        self.meter.reset()
        self.held_bytes = self.meter.held() - extra_bytes + made_bytes
        limit_bytes = self.meter.capacity() if self.limit_gb is None else self.limit_gb * GIB
        self.guard.available_bytes = limit_bytes - self.held_bytes
        self._measure(single)
        if self.guard.needs.bound(self.guard.load(single)) > self.guard.available_bytes:
            raise MemoryShortageError(self._too_large(single, limit_bytes))
        for batch in batches:
            self._measure_largest_part(batch)

    def _measure_update(self, optimizer: Optimizer) -> int:
        """Run the optimizer's step and undo it; return the bytes of the moments that it made.

        A resumed run has its moments, and perhaps no room for others beside them: there the step is left out.
        """
        if optimizer.state:
            return 0
        with update_taken_back(optimizer):
            self.meter.reset()
            held_bytes = self.meter.held()
            if attempt(lambda: (optimizer.step(),)) is None:
                raise MemoryShortageError(
                    "model, gradients and the optimizer's moments do not fit: take a smaller model"
                )
            made_bytes = state_bytes(optimizer.state)
            self.update_bytes = max(0.0, self.meter.peak() - held_bytes - made_bytes)
        return made_bytes

    def _measure_largest_part(self, batch: Batch) -> None:
        """Measure the whole unit where it is known to fit; otherwise larger and larger parts of it."""
        largest = 0
        for _ in range(REFINEMENTS):
            part = max(self.guard.parts(batch), key=lambda part: len(part.utterance_ids))
            if len(part.utterance_ids) <= largest:
                return
            largest = len(part.utterance_ids)
            while not self._measure(part):
                self.failed.append(self.guard.load(part))
                part = self.guard.halves(part)[-1]
            self._lower()

    def _measure(self, batch: Batch) -> bool:
        """Run a batch and record its peak memory; False where the device ran out of memory."""
        self.meter.reset()
        before_bytes = self.meter.held()
        if attempt(lambda: self.run(batch)) is None:
            return False
        taken = Measured(self.guard.load(batch), float(max(1, self.meter.peak() - before_bytes)))
        self.guard.needs = self.guard.needs.including(taken)
        return True

    def _lower(self) -> None:
        """Lower the limit so that units that did not fit, against their bound, are split in training."""
        too_much = [0.99 * self.guard.needs.bound(load) for load in self.failed]
        self.guard.available_bytes = min([self.guard.available_bytes, *too_much])

    def _too_large(self, single: Batch, limit_bytes: float) -> str:
        load = self.guard.load(single)
        needed = self.held_bytes + self.guard.needs.bound(load)
        return (
            f"utterance {single.utterance_ids[0]} alone ({load}) needs {needed / GIB:.2f} GiB with the model, more than "
            f"trainer.memory_limit_gb={limit_bytes / GIB:.2f}: raise it, or lower batch.max_frames="
            f"{self.guard.budgets.frames} and batch.max_cells={self.guard.budgets.cells} to have such utterances named"
        )


def report(probe: Probe, loads: Sequence[Load]) -> list[str]:
    """Log lines with the probe's results: the worst unit, and how many units are run in parts."""
    guard = probe.guard
    worst = max(loads, key=guard.needs.bound)
    needed = probe.held_bytes + max(guard.needs.bound(worst), probe.update_bytes)
    lines = [f"worst batch of the plan: {worst}: {needed / GIB:.2f} GiB"]
    split = sum(guard.needs.bound(load) > guard.available_bytes for load in loads)
    if split:
        allowed = max(0.0, probe.held_bytes + guard.available_bytes)
        lines.append(
            f"{split:,} of {len(loads):,} units of an epoch need more than {allowed / GIB:.2f} GiB and are run in parts"
        )
    return lines


def probe_memory(
    probe: Probe, plan: BatchPlan, epoch: int, load: Callable[[Unit], Batch], optimizer: Optimizer
) -> list[str]:
    """Measure the worst units of an epoch, which ``load`` reads, log the results and return their lines."""
    units = [unit for batch in plan.epoch(epoch) for unit in batch]
    batches = [load(unit) for unit in worst_units(units, plan)]
    usable = [batch for batch in batches if batch.utterance_ids]  # the others were emptied while loading
    lines = []
    if usable:
        probe.measure(usable, optimizer)
        lines = report(probe, [load_of_unit(unit, plan) for unit in units])
        for line in lines:
            log.info("%s", line)
    probe.guard.metrics()  # resets the counts of the probe, which do not belong to the run
    return lines
