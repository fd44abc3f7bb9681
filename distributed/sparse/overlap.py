"""Compressed gradients that are sent while backward still runs, bucket by bucket, in one order on every learner.

    backward has filled buckets 0 ... b   ->   offsets of b are broadcast
    offsets of b have arrived             ->   values of b are all-reduced, before the offsets of b + 1 are sent

Why: the exchange of the first buckets is hidden behind the computation of the others. Collectives are matched by the
order in which they are issued, so that this order must be the same on all learners; the time depends on each one's
pace. Nothing waits before backward has ended. The values of the last bucket are sent last and say whether the whole
gradient was usable: no memory may change before they are agreed upon.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import Tensor, nn
from torch.distributed import Work

from distributed.sparse.segments import Index, Offsets, Segment


class Filling:
    """Counts how many buckets, from the first on, have all their gradients from the last backward of a step."""

    def __init__(self, bucket_of: Mapping[str, int], parameters: Mapping[str, nn.Parameter]) -> None:
        self.buckets = len(set(bucket_of.values()))
        self._names = [{name for name, place in bucket_of.items() if place == each} for each in range(self.buckets)]
        self._missing: list[set[str]] = []
        self._listener: Callable[[int], None] | None = None
        self._paused = 0
        self._handles = [
            parameters[name].register_post_accumulate_grad_hook(partial(self._accumulated, name)) for name in bucket_of
        ]

    def start(self, listener: Callable[[int], None]) -> None:
        """Call ``listener`` with the number of filled buckets after every gradient from now on."""
        self._missing = [set(names) for names in self._names]
        self._listener = listener

    def stop(self) -> None:
        """Stop calling the listener: the step has all its gradients."""
        self._listener = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Wraps a backward that is not the last one of its step: its gradients are not counted."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    def remove(self) -> None:
        """Remove the hooks from the parameters."""
        for handle in self._handles:
            handle.remove()

    def _accumulated(self, name: str, parameter: Tensor) -> None:
        if self._listener is None or self._paused:
            return
        for missing in self._missing:
            missing.discard(name)
        unfilled = (place for place, missing in enumerate(self._missing) if missing)
        self._listener(next(unfilled, self.buckets))


@dataclass(frozen=True, slots=True)
class Sent:
    """The values that a learner has sent of some segments; ``message`` becomes the sum over learners."""

    segments: Sequence[Segment]
    indices: list[Index]
    message: Tensor
    unsent: Tensor  # part of the entries that was lost to rounding in the message
    work: Work | None


class Sender(Protocol):
    """The collectives that a scheme starts for a bucket; every learner calls them in the same order."""

    def start_offsets(self, segments: Sequence[Segment]) -> tuple[Offsets, Work | None]:
        """Start to broadcast the offsets chosen in segments whose gradients are complete."""

    def start_values(self, segments: Sequence[Segment], indices: list[Index], usable: bool) -> Sent:
        """Start to sum the values at the agreed positions; NaN where the gradient is not ``usable``."""

    def wait(self, work: Work | None) -> None:
        """Wait until a started collective has ended."""


class OverlappedStep:
    """The collectives of one step, over the segments of each bucket."""

    def __init__(self, buckets: Sequence[Sequence[Segment]], sender: Sender) -> None:
        self.buckets = buckets
        self.sender = sender
        self.sent: list[Sent] = []
        self._offsets: tuple[Offsets, Work | None] | None = None  # offsets of the next bucket, in flight

    def advance(self, filled: int) -> None:
        """Start all collectives that need no waiting, given that ``filled`` buckets have all their gradients."""
        while len(self.sent) < filled:
            if self._offsets is None:
                self._offsets = self.sender.start_offsets(self.buckets[len(self.sent)])
            _, work = self._offsets
            if len(self.sent) == len(self.buckets) - 1 or (work is not None and not work.is_completed()):
                return
            self._send_values(usable=True)

    def finish(self, usable: bool) -> list[Sent]:
        """Start the rest and wait for all collectives. The last values are NaN where the gradient is not ``usable``."""
        while len(self.sent) < len(self.buckets):
            if self._offsets is None:
                self._offsets = self.sender.start_offsets(self.buckets[len(self.sent)])
            self._send_values(usable or len(self.sent) < len(self.buckets) - 1)
        for sent in self.sent:
            self.sender.wait(sent.work)
        return self.sent

    def _send_values(self, usable: bool) -> None:
        assert self._offsets is not None
        offsets, work = self._offsets
        self.sender.wait(work)
        self.sent.append(
            self.sender.start_values(self.buckets[len(self.sent)], offsets.indices(offsets.message), usable)
        )
        self._offsets = None
