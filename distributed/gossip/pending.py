"""What the training thread and the communication threads share: the weights, and differences not yet added to them.

A communication thread never writes parameters: between forward and backward that would give the gradients of no model
at all. It sends ``weights + pending`` and adds what it has learned to ``pending``; the training thread folds pending
into the weights where no gradient is under way. The lock is held for passes over memory only, never while waiting for
another learner, so that nobody's slowness can spread.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from distributed.gossip.continuous_momentum import ContinuousMomentum, Flow
from distributed.gossip.packing import Message, Packing
from distributed.learners.waiting import LOOK_SECONDS


class PendingMixing:
    """Weights of one learner, in flat buffers, and the mixing not yet in them.

    The age of an exchange is the number of own updates since its snapshot was taken; its staleness is its age when it
    is folded in. ``flow``: constants of a continuous momentum of the weights; None goes without it.
    """

    def __init__(self, weights: Sequence[Tensor], flow: Flow | None = None) -> None:
        self.packing = Packing(weights)
        self.momentum = None if flow is None else ContinuousMomentum(weights, flow)
        self._nonnegative: Sequence[Tensor] = ()
        self.updates = 0  # number of updates by this learner's own optimizer
        self._pending = self.packing.message()  # differences, which count ``_scale`` times
        self._scale = 1.0
        self._in_flight: Counter[int] = Counter()  # exchanges in flight, by ``updates`` when their snapshot was taken
        self._arrived: Counter[int] = Counter()  # exchanges whose differences are in pending, by the same key
        self._staleness: Counter[int] = Counter()
        self._changed = threading.Condition()

    def repack(self, buffers: Sequence[Tensor], nonnegative: Sequence[Tensor]) -> None:
        """Mix other buffers from now on; nothing may be in flight.

        ``nonnegative`` are those of them that mixing must not make negative: what an update has taken from them since a
        snapshot may be more than the difference of that snapshot leaves.
        """
        with self._changed:
            if self._in_flight or self._arrived:
                raise RuntimeError("what is mixed cannot change while an exchange is in flight; drain first")
            self.packing = Packing(buffers)
            self._pending = self.packing.message()
            self._nonnegative = nonnegative

    @torch.no_grad()
    def snapshot(self, into: Message) -> int:
        """Copy the weights, pending mixing included, into a message; returns the token that ``add`` wants."""
        with self._changed:
            if self._arrived:
                self.packing.take_sum(into, self._pending, self._scale)
            else:
                self.packing.take_snapshot(into)
            self._in_flight[self.updates] += 1
            return self.updates

    @torch.no_grad()
    def add(self, difference: Message, weight: float, taken_at: int) -> Message:
        """Leave ``weight`` x ``difference``, which the exchange of a snapshot gives, and get a message to overwrite for it.

        What is alone in pending is scaled when it is read, which saves a pass over memory.
        """
        with self._changed:
            if self._arrived:
                for pending, part in zip(self._pending, difference, strict=True):
                    pending.add_(part, alpha=weight / self._scale)
            else:
                self._pending, self._scale, difference = difference, weight, self._pending
            self._in_flight -= Counter([taken_at])
            self._arrived[taken_at] += 1
            self._changed.notify_all()
            return difference

    @property
    def oldest(self) -> int:
        """Age of the oldest exchange in flight; 0 without any. For those who hold the lock, or are alone."""
        return self.updates - min(self._in_flight, default=self.updates)

    def wait_until_younger(self, age: int, failed: Callable[[], bool]) -> None:
        """Return when every exchange in flight is younger than ``age``, or when something ``failed``."""
        with self._changed:
            while not self._changed.wait_for(lambda: failed() or self.oldest < age, LOOK_SECONDS):
                pass  # nobody wakes this thread where another one waits for a lost learner; ``failed`` then says so

    def wake(self) -> None:
        """Wake the waiting thread, which then calls ``failed`` again."""
        with self._changed:
            self._changed.notify_all()

    @contextmanager
    def updating(self, advanced: bool = False) -> Iterator[float]:
        """``advance``, unless that is done; the caller's update follows inside, with snapshots excluded.

        Yields the seconds that this call waited for a snapshot to end.
        """
        started = time.perf_counter()
        with self._changed:
            waited = time.perf_counter() - started
            if not advanced:
                self._advance()
            yield waited
            self.updates += 1

    def advance(self) -> bool:
        """What precedes an update: a step of the momentum, and pending is folded in. Whether weights have changed."""
        with self._changed:
            return self._advance()

    def _advance(self) -> bool:
        if self.momentum is not None:
            self.momentum.elapse()
        return self._fold() or self.momentum is not None

    def fold(self) -> None:
        """Fold pending into the weights where there is no update."""
        with self._changed:
            self._fold()

    @torch.no_grad()
    def _fold(self) -> bool:
        if not self._arrived:
            return False
        self.packing.add(self._pending, self._scale)
        if self.momentum is not None:
            self.momentum.exchanged(self._pending, self._scale)
        for buffer in self._nonnegative:
            buffer.clamp_(min=0)
        for taken_at, exchanges in self._arrived.items():
            self._staleness[self.updates - taken_at] += exchanges
        self._arrived.clear()
        return True

    def state_dict(self) -> dict[str, Any]:
        """The momentum's part of a checkpoint; nothing may be pending."""
        return {} if self.momentum is None else {"offsets": self.momentum.offsets}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the momentum of a checkpoint; one without leaves it at its beginning."""
        if self.momentum is not None and "offsets" in state:
            self.momentum.load(state["offsets"])

    def take_staleness(self) -> Counter[int]:
        """Number of exchanges folded in since the last call, by staleness."""
        with self._changed:
            taken, self._staleness = self._staleness, Counter()
        return taken
