"""How learners agree on the point at which all of them stop, without a message before one of them is asked to.

Points are numbers that grow over a run: samples of its plan. The learner that is asked says so to learner 0, which asks
all; each answers with the end of what it has begun, and begins nothing more; learner 0 takes the furthest of these
points and announces it; all go on up to it, so that nobody waits for a learner that has stopped before.

    "stop <why>"  any learner -> 0 -> all        "begun <point>"  each -> 0        "until <point>"  0 -> all

The training thread calls ``begin``; the thread of liveness (liveness.py, centre.py) exchanges the messages.
"""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

_CHECK_SECONDS = 1.0  # how often a wait for the agreement checks whether a learner is lost


class Gate:
    """Lets one learner begin its steps, up to the point at which all have agreed to stop.

    Args:
        alone: whether there is nobody to agree with.
        check: called now and then while learners agree; an error that it raises ends the wait.

    Attributes:
        asked: why this learner was asked to stop; None if it was not. Only set, so that a signal handler may do it.
    """

    def __init__(self, *, alone: bool = True, check: Callable[[], None] = lambda: None) -> None:
        self.asked: str | None = None
        self.alone = alone
        self.check = check
        self._changed = threading.Condition()  # guards what follows
        self._why: str | None = None  # set while learners agree, and after
        self._begun = 0
        self._beginning = False  # whether the training thread is about to begin something
        self._until: int | None = None

    @property
    def why(self) -> str | None:
        """Why learners stop; None while none of them has been asked to."""
        return self._why

    @property
    def stopping(self) -> bool:
        """Whether this learner has been asked to stop, or has heard that another one was."""
        return self._why is not None or (self.alone and self.asked is not None)

    @property
    def until(self) -> int | None:
        """The agreed point; None while there is none."""
        return self._until

    def ask(self, why: str) -> None:
        """Ask all learners to stop. May be called by a signal handler: it takes no lock."""
        if self.asked is None:
            self.asked = why

    # ------------------------------------------------------------------ the training thread

    def start(self, point: int) -> None:
        """Say where this learner stands before its first step."""
        with self._changed:
            self._begun = point

    def begin(self, where: Callable[[], int]) -> bool:
        """Begin something; False if it must be left, as it lies beyond the agreed point.

        ``where`` is called once no agreement is under way, and returns where that ends. It may claim units and take its
        time.
        """
        with self._changed:
            if self.alone and self.asked is not None and self._why is None:
                self._hear(self.asked)
                self._until = self._begun
            while self._why is not None and self._until is None:
                self._changed.wait(_CHECK_SECONDS)
                self.check()
            self._beginning = True
        point: int | None = None
        try:
            point = where()
        finally:
            with self._changed:  # at once, so that no answer falls between
                self._beginning = False
                begins = point is not None and (self._until is None or point <= self._until)
                if point is not None and begins:
                    self._begun = max(self._begun, point)
        return begins

    # ------------------------------------------------------------------ the thread of liveness

    def stop(self, why: str) -> None:
        """Let nothing more be begun until there is an agreement."""
        with self._changed:
            if self._why is None:
                self._hear(why)

    def _hear(self, why: str) -> None:
        self._why = why
        log.warning("%s: all learners save after the step under way, and stop; a second signal ends one at once", why)

    def answer(self) -> int | None:
        """Where this learner will be after what it has begun; None while it begins something, or nobody stops."""
        with self._changed:
            return None if self._why is None or self._beginning else self._begun

    def settle(self, point: int) -> None:
        """Go on up to the agreed point."""
        with self._changed:
            self._until = point
            self._changed.notify_all()


class Agreement:
    """Learner 0's side: collects where the learners are, and finds the point."""

    def __init__(self, learners: int) -> None:
        self._learners = learners
        self._begun: dict[int, int] = {}

    def hear(self, learner: int, point: int) -> int | None:
        """Take a learner's answer; the agreed point once all have answered, None before."""
        self._begun[learner] = point
        return max(self._begun.values()) if len(self._begun) == self._learners else None
