"""Which units a learner processes in each of its steps: the lockstep walk through the batch plan."""

from collections.abc import Iterator
from dataclasses import dataclass

from asr.data.batch import Unit
from asr.data.plan import BatchPlan
from asr.training.hook import Progress
from asr.training.parts import TrainerOptions


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one learner."""

    units: list[Unit]  # this learner's share of the global batch
    samples: int  # utterances of the global batch, all learners together
    next_position: tuple[int, int]  # (epoch, batch) that follows


def planned_steps(plan: BatchPlan, start: Progress, total_samples: int, rank: int, world_size: int) -> Iterator[Step]:
    """The plan's global batches from ``start`` on until ``total_samples`` are processed; a resume is a seek."""
    epoch, batch, samples = start.epoch, start.batch, start.samples
    while samples < total_samples:
        batches = plan.epoch(epoch)
        while batch < len(batches) and samples < total_samples:
            size = sum(len(unit.utterances) for unit in batches[batch])
            following = (epoch, batch + 1) if batch + 1 < len(batches) else (epoch + 1, 0)
            yield Step(plan.learner_units(batches[batch], rank, world_size), size, following)
            samples += size
            batch += 1
        epoch, batch = epoch + 1, 0


def samples_of_steps(plan: BatchPlan, steps: int, epochs: int) -> int:
    """Utterances in the first ``steps`` global batches of a run, or in all of its ``epochs`` if those are fewer."""
    samples = 0
    for epoch in range(epochs):
        batches = plan.epoch(epoch)[:steps]
        samples += sum(len(unit.utterances) for batch in batches for unit in batch)
        steps -= len(batches)
        if steps == 0:
            break
    return samples


def total_samples(options: TrainerOptions, plan: BatchPlan) -> int:
    """Utterances that a run processes, by all learners together."""
    samples = options.epochs * plan.utterances
    if options.max_steps is None:
        return samples
    return min(samples, samples_of_steps(plan, options.max_steps, options.epochs))
