"""Pace: how fast a run's steps will be made, from a few units of its plan that are computed and timed.

    seconds of a unit  =  a line through the timed ones, by their padded frames
    seconds of a step  =  the slowest learner's units, one after the other, and the update         (in lockstep)
                       =  the mean learner's units and the update                                  (asynchronous)

Exchange between learners, evaluations and checkpoints are not in it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from asr.data.batch import Batch, Unit
from asr.data.plan import BatchPlan
from asr.training.memory import load_of_unit
from distributed.errors import UsageError

TIMED = 4  # units that are timed: the shortest, the longest and those between, evenly by rank


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds that units of some padded lengths take, shortest first, and the optimizer's update."""

    frames: Sequence[int]
    seconds: Sequence[float]
    reading_seconds: Sequence[float]  # to read the unit the first time
    update_seconds: float

    def of_unit(self, frames: int, reading: bool) -> float:
        """Seconds of a unit of so many padded frames, with or without reading it."""
        seconds = float(np.interp(frames, self.frames, self.seconds))
        return seconds + (float(np.interp(frames, self.frames, self.reading_seconds)) if reading else 0.0)

    def of_step(self, plan: BatchPlan, learners: int, *, lockstep: bool, reading: bool) -> float:
        """Mean seconds of a global batch of epoch 0, of learners that have a core each.

        ``reading``: units are read in the learner's own process, for the first time.
        """
        totals = []
        for batch in plan.epoch(0):
            own = [
                sum(self.of_unit(load_of_unit(unit, plan).frames, reading) for unit in units)
                for units in (plan.learner_units(batch, rank, learners) for rank in range(learners))
            ]
            totals.append(max(own) if lockstep else sum(own) / learners)
        return sum(totals) / len(totals) + self.update_seconds


def units_to_time(plan: BatchPlan) -> list[Unit]:
    """Units of epoch 0 from the shortest to the longest, by padded frames; each length once."""
    units = sorted(
        (unit for batch in plan.epoch(0) for unit in batch), key=lambda unit: load_of_unit(unit, plan).frames
    )
    places = {round(place) for place in np.linspace(0, len(units) - 1, TIMED)}
    by_frames = {load_of_unit(units[place], plan).frames: units[place] for place in sorted(places)}
    return list(by_frames.values())


def measured_pace(
    plan: BatchPlan, load: Callable[[Unit], Batch], compute: Callable[[Batch], object], update: Callable[[], object]
) -> Pace:
    """Time some units and the update.

    Args:
        load: reads a unit.
        compute: forward and backward of a unit; run twice, of which the faster counts.
        update: the optimizer's step; run twice, as the first one makes moments.

    Raises:
        UsageError: no utterance of these units can be used.
    """
    frames, seconds, reading = [], [], []
    units = units_to_time(plan)
    for unit in units:
        started = time.perf_counter()
        batch = load(unit)
        read = time.perf_counter() - started
        if batch.utterance_ids:  # else all of them were found unusable
            frames.append(load_of_unit(unit, plan).frames)
            reading.append(read)
            seconds.append(min(_seconds_of(partial(compute, batch)) for _ in range(2)))
    if not frames:
        raise UsageError(
            f"no pace: none of the {len(units)} units that were read, the shortest to the longest, has a usable utterance; "
            "mend the recordings or leave them out of the corpus"
        )
    return Pace(frames, seconds, reading, min(_seconds_of(update) for _ in range(2)))


def _seconds_of(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
