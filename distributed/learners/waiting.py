"""Waits for messages over gloo that end when a learner is lost, also where gloo's own waits do not.

Where a connection closes, gloo fails the operations that are posted on it, except those whose message has begun to come in or to
go out: they wait until the group's timeout, minutes later (transport/tcp/pair.cc, signalException). A learner that is killed while
it sends its weights leaves the others in such a wait. So the thread that trains looks from time to time whether a
learner is lost, and leaves what it waits for. NCCL ends its own operations, and is waited for as ever.
"""

import queue
import threading
from collections.abc import Callable
from datetime import timedelta

from torch.distributed import Work

LOOK_SECONDS = 0.5  # between looks at whether a learner is lost


def wait_for_collective(work: Work, check: Callable[[], None]) -> None:
    """Wait for a collective of gloo's; ``check`` raises when a learner is lost."""
    while True:
        try:
            work.wait(timedelta(seconds=LOOK_SECONDS))
            return
        except RuntimeError:
            if work.is_completed():
                work.wait()  # returns where it ended just after the look, and else raises what it ended with
                return
        check()


class Waiter:
    """Runs waits in a thread of its own, which the thread that asked can leave behind.

    Operations between two learners need it: for them a wait with a timeout that passes closes the connection.
    """

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[_Wait] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def wait(self, action: Callable[[], None], check: Callable[[], None]) -> None:
        """Run ``action`` to its end and raise its error; leave it where ``check`` raises."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="waiting", daemon=True)
            self._thread.start()
        wait = _Wait(action)
        self._asked.put(wait)
        while not wait.over.wait(LOOK_SECONDS):
            check()
        if wait.error is not None:
            raise wait.error

    def _run(self) -> None:
        while True:
            self._asked.get().run()


class _Wait:
    """One wait, and how it ended."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self.over = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._action()
        except Exception as error:
            self.error = error
        self.over.set()
