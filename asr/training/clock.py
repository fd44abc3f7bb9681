"""When a checkpoint is due by time: learner 0's clock decides for all, where learners meet.

Why planned steps: learners must all write or none, so they ask learner 0. An answer in every step would be a barrier in
every step, which gossip does not have. From the rate of steps learner 0 therefore plans the step of the next answer, at
most a tenth of the interval away, and announces it with each answer: ten small broadcasts an interval.

Learners of a pool meet at marks only, and take units of the next stretch before they meet at the end of this one. There
the learner that first begins a stretch plans its end, at most a quarter of the interval away; at each mark learner 0
then says whether a checkpoint is due.
"""

import math
import time
from collections.abc import Callable

import torch

from distributed.learners.world import World

ANSWERS = 10  # of learner 0 in an interval, in lockstep
MARKS = 4  # in an interval, of a pool


class CheckpointClock:
    """Whether a checkpoint is due by time. Its interval begins with the checkpoint before, whatever caused that."""

    def __init__(
        self, world: World, every_minutes: float | None, *, lockstep: bool, now: Callable[[], float] = time.monotonic
    ) -> None:
        """``every_minutes``: None makes none due. ``lockstep``: whether learners meet at every step, or at marks only."""
        self.world = world
        self.every = None if every_minutes is None else 60 * every_minutes  # seconds
        self.lockstep = lockstep
        self.now = now
        self.saved_at = self.seen_at = now()
        self.seen_step = self.next_answer = 0  # global steps
        self.seconds_per_step: float | None = None  # over the steps since the answer before; None at first

    def start(self, step: int) -> None:
        """Begin a run, or go on with it, at a global step."""
        self.saved_at = self.seen_at = self.now()
        self.seen_step, self.next_answer = step, step + 1

    def restart(self) -> None:
        """Begin an interval anew, as a checkpoint is written."""
        self.saved_at = self.now()

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due at a global step; called by all learners together, collective at planned steps."""
        if self.every is None or (self.lockstep and step < self.next_answer):
            return False
        now = self.now()
        if step > self.seen_step:
            self.seconds_per_step = (now - self.seen_at) / (step - self.seen_step)
            self.seen_at, self.seen_step = now, step
        is_due = now - self.saved_at >= self.every
        following = step + self._steps(self.every if is_due else self.every - (now - self.saved_at), ANSWERS)
        answer = self.world.broadcast(torch.tensor([int(is_due), following]), source=0).tolist()
        self.next_answer = answer[1]
        return bool(answer[0])

    def planned_mark(self, name: str, step: int) -> int | None:
        """Where a pool's stretch that begins at a global step shall end, the same on all learners; None: anywhere.

        Not collective: the first learner to ask for the stretch called ``name`` decides.
        """
        if self.every is None:
            return None
        # A learner that reads ahead asks before the stretch begins.
        ahead = 0.0 if self.seconds_per_step is None else (step - self.seen_step) * self.seconds_per_step
        begins = max(self.now(), self.seen_at + ahead)
        return self.world.first_proposal(name, step + self._steps(self.every - (begins - self.saved_at), MARKS))

    def _steps(self, seconds: float, parts: int) -> int:
        """Global steps expected to pass in ``seconds``, or in that part of the interval if it is shorter; 1 or more."""
        if self.every is None or not self.seconds_per_step:
            return 1
        return max(1, math.ceil(min(seconds, self.every / parts) / self.seconds_per_step))
