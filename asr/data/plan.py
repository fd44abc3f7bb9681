"""The batch plan: which utterances are processed together, in which order, whatever the number of learners.

A pure function of (frames, target lengths, seed, epoch, budgets). An epoch is a list of global batches; a global batch
is exactly G units of similar length; a unit is what one learner processes at once. Learner r of L takes the units
r, r + L, ... of each global batch (L divides G); with fewer learners the rest is gradient accumulation. So resuming is
a seek, and a run may go on with another number of learners.

B utterances of a unit   T feature frames   T' = ceil(T / subsampling)   U target tokens
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from asr.data.batch import Unit, keyed_seed
from distributed.errors import UsageError
from distributed.ranges import Count, NonNegative

# Utterances are sorted by length times a random factor of 1 +- this, so that units differ between epochs.
# It costs about as much in padding.
LENGTH_JITTER = 0.05

# A signal that is longer by a fraction may have more frames than the fraction says, since frames lie wholly within it:
# less than 1 + fraction x window / shift more, which is at most this up to a fraction of 0.8 (at 25 and 10 ms).
EDGE_FRAMES = 3

Indices = list[int]


@dataclass(frozen=True, slots=True)
class Budgets:
    """The limits on the size of one unit."""

    utterances: int
    frames: int  # B * max T
    cells: int  # B * max T' * (max U + 1)


def chunk(
    order: Sequence[int], frames: Sequence[int], encoder_frames: Sequence[int], targets: Sequence[int], budgets: Budgets
) -> list[Indices]:
    """Cut ``order`` into units: each as long as the budgets allow, padding included; one that exceeds them is alone."""
    units: list[Indices] = []
    unit: Indices = []
    longest = longest_encoded = most_targets = 0
    for index in order:
        size = len(unit) + 1
        longest = max(longest, frames[index])
        longest_encoded = max(longest_encoded, encoder_frames[index])
        most_targets = max(most_targets, targets[index])
        if unit and (
            size > budgets.utterances
            or size * longest > budgets.frames
            or size * longest_encoded * (most_targets + 1) > budgets.cells
        ):
            units.append(unit)
            unit = []
            longest, longest_encoded, most_targets = frames[index], encoder_frames[index], targets[index]
        unit.append(index)
    return [*units, unit] if unit else units


def split_to_multiple(units: list[Indices], multiple: int) -> list[Indices] | None:
    """Split the units with the most utterances into even parts until their number is a multiple; None if impossible."""
    parts = [1] * len(units)
    largest = [(-float(len(unit)), position) for position, unit in enumerate(units)]
    heapq.heapify(largest)
    for _ in range(-len(units) % multiple):
        _, position = heapq.heappop(largest)
        if parts[position] == len(units[position]):
            return None
        parts[position] += 1
        heapq.heappush(largest, (-len(units[position]) / parts[position], position))
    return [piece for unit, number in zip(units, parts, strict=True) for piece in _even_parts(unit, number)]


def _even_parts(unit: Indices, number: int) -> list[Indices]:
    cuts = [len(unit) * part // number for part in range(number + 1)]
    return [unit[start:end] for start, end in pairwise(cuts)]


def check_learners(units: int, learners: int) -> None:
    """Raise ValueError unless the number of learners divides the number of units of a global batch."""
    if units % learners:
        allowed = ", ".join(str(n) for n in range(1, units + 1) if units % n == 0)
        raise UsageError(
            f"{learners} learners cannot share a global batch of batch.units={units} units: "
            f"start {allowed} learners, or set batch.units to a multiple of {learners}"
        )


def planned_frames(frames: NDArray[np.int64], margin: float) -> NDArray[np.int64]:
    """Largest number of frames of each utterance after hooks lengthen it by at most the fraction ``margin``."""
    return frames if margin == 0 else np.ceil(frames * (1.0 + margin)).astype(np.int64) + EDGE_FRAMES


def planned_tokens(tokens: int, margin: float) -> int:
    """Largest number of tokens after hooks lengthen a text by at most the fraction ``margin``, rounded up."""
    return math.ceil(tokens * (1.0 + margin))


def _room(key: str, margin: float | None, lengthening: float, what: str) -> float:
    """The fraction by which ``what`` may become longer, checked."""
    if margin is None:
        return lengthening
    if margin < lengthening:
        raise UsageError(
            f"{key}={margin:g} leaves less room than the hooks need, which make {what} up to "
            f"{lengthening:.1%} longer; set {key}={math.ceil(lengthening * 1000) / 1000:g} or more, or null"
        )
    return margin


class BatchPlan:
    """The plan of a run. ``frames`` and the like describe the usable utterances, in the dataset's order.

    ``lengthening`` is what the run's hooks may do to an utterance, as a fraction of its frames, ``target_lengthening`` of
    its tokens. A margin of None makes room for just that; a number keeps the plan the same for runs with other hooks.
    Without a lattice (``has_lattice``) tokens take no room, and the plan is the same whatever they are.
    ``fingerprint`` is a number that differs whenever the plan does: learners compare it, and a resume with its checkpoint.
    """

    def __init__(
        self,
        *,
        units: Count,
        unit_utterances: Count,
        max_frames: Count,
        max_cells: Count,
        frame_margin: NonNegative | None,
        target_margin: NonNegative | None,
        frames: Sequence[int],
        target_lengths: Sequence[int],
        utterance_ids: Sequence[str],
        subsampling: int,
        lengthening: float,
        seed: int,
        target_lengthening: float = 0.0,
        has_lattice: bool = True,
    ) -> None:
        self.units = units
        self.budgets = Budgets(unit_utterances, max_frames, max_cells)
        self.frames = np.asarray(frames, dtype=np.int64)
        self.target_lengths = np.asarray(target_lengths, dtype=np.int64)
        self.utterance_ids = tuple(utterance_ids)
        frame_room = _room("batch.frame_margin", frame_margin, lengthening, "utterances")
        target_room = _room("batch.target_margin", target_margin, target_lengthening, "their targets")
        self.planned_frames = planned_frames(self.frames, frame_room)
        self.encoder_frames = -(-self.planned_frames // subsampling)
        counted = self.target_lengths.tolist() if has_lattice else [0] * len(self.target_lengths)
        planned = [planned_tokens(tokens, target_room) for tokens in counted]
        self.planned_targets = np.asarray(planned, dtype=np.int64)
        self.seed = seed
        facts = [units, self.budgets, target_room, subsampling, seed]
        rows = zip(utterance_ids, self.planned_frames.tolist(), counted, strict=False)
        self.fingerprint = keyed_seed(*facts, *(value for row in rows for value in row))
        self._check_budgets(utterance_ids)
        self._check_divisible()

    @property
    def utterances(self) -> int:
        """Number of utterances per epoch."""
        return len(self.frames)

    @cached_property
    def nominal_batch(self) -> float:
        """Mean number of utterances per global batch in epoch 0, which converts samples to global steps."""
        return self.utterances / len(self.epoch(0))

    def epoch(self, epoch: int) -> list[list[Unit]]:
        """The global batches of an epoch: every utterance once, each batch exactly G units of similar length."""
        rng = np.random.default_rng([self.seed, epoch])
        jitter = rng.uniform(1.0 - LENGTH_JITTER, 1.0 + LENGTH_JITTER, self.utterances)
        pieces = self._pieces(self.frames * jitter)
        if pieces is None:  # too few utterances to cut as this jitter happens to fall: then by exact length
            pieces = self._pieces(self.frames.astype(np.float64))
        assert pieces is not None, "the constructor has checked it"
        batches: list[list[Unit]] = []
        for batch, group in enumerate(rng.permutation(len(pieces) // self.units).tolist()):
            places = (group * self.units + rng.permutation(self.units)).tolist()
            batches.append([Unit(epoch, batch, index, tuple(pieces[place])) for index, place in enumerate(places)])
        return batches

    def _pieces(self, lengths: NDArray[np.float64]) -> list[Indices] | None:
        """Units in order of ``lengths``, their number a multiple of G; None if that is impossible."""
        order = np.argsort(lengths, kind="stable").tolist()
        columns = (self.planned_frames.tolist(), self.encoder_frames.tolist(), self.planned_targets.tolist())
        return split_to_multiple(chunk(order, *columns, self.budgets), self.units)

    def learner_units(self, global_batch: Sequence[Unit], rank: int, world_size: int) -> list[Unit]:
        """The units that learner ``rank`` of ``world_size`` processes, one after the other."""
        return list(global_batch[rank::world_size])

    def _check_budgets(self, utterance_ids: Sequence[str]) -> None:
        """No utterance may exceed a budget alone: naming it now beats running out of memory later."""
        if not len(self.frames) == len(self.target_lengths) == len(utterance_ids):
            raise ValueError("frames, target_lengths and utterance_ids must be of the same length")
        cells = self.encoder_frames * (self.planned_targets + 1)
        for costs, what, key, budget in (
            (
                self.planned_frames,
                "feature frames (with the room that hooks need)",
                "batch.max_frames",
                self.budgets.frames,
            ),
            (cells, "lattice cells (with the room that hooks need)", "batch.max_cells", self.budgets.cells),
        ):
            if (over := np.flatnonzero(costs > budget)).size:
                worst = int(costs.argmax())
                raise UsageError(
                    f"utterance {utterance_ids[worst]} alone has {costs[worst]} {what}, more than {key}={budget} "
                    f"({over.size} such utterances); set {key}={costs[worst]} or more, or remove them from the manifest"
                )

    def _check_divisible(self) -> None:
        """Every global batch must get its G units; what holds for exact lengths holds for every epoch."""
        if self.utterances < self.units:
            raise UsageError(
                f"{self.utterances} utterances cannot fill the batch.units={self.units} units of one global batch; "
                f"set batch.units={max(1, self.utterances)} or less, or add data"
            )
        if self._pieces(self.frames.astype(np.float64)) is None:
            possible = math.floor(self.utterances / self.units) * self.units
            raise UsageError(
                f"{self.utterances} utterances make more than {possible} units under batch.unit_utterances="
                f"{self.budgets.utterances}, batch.max_frames={self.budgets.frames} and batch.max_cells={self.budgets.cells}, "
                f"and cannot be cut into a multiple of batch.units={self.units}; raise a budget or lower batch.units"
            )
