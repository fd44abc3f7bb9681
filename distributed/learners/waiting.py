"""Waits for messages over gloo that end when a learner is lost, also where gloo's own waits do not.

Where a connection closes, gloo fails the operations that are posted on it, except those whose message has begun to come in and
those queued to go out: they wait until the group's timeout, minutes later (transport/tcp/pair.cc, signalException). A learner that
is killed while it sends its weights leaves the others in such a wait. So the thread that trains looks from time to time whether a
learner is lost, and leaves what it waits for. Not so inside torch's DistributedDataParallel, which waits by itself for its
all-reduces, of which each has several messages under way, so that one of them fails; and not for NCCL.
"""

import queue
import threading
from collections.abc import Callable
from datetime import timedelta

from torch.distributed import Work

LOOK_SECONDS = 0.5  # between looks at whether a learner is lost


def wait_for_collective(work: Work, check: Callable[[], None]) -> None:
    """Wait for a collective of gloo's; ``check`` raises when a learner is lost. What is left then still owns its tensors."""
    while not _ends(work):
        try:
            check()
        except Exception:
            if _ends(work):  # connections are being cut: what does not end now is stuck, and writes nothing any more
                return
            raise


def _ends(work: Work) -> bool:
    """Whether the operation ends within a look; raises the error that it ended with."""
    try:
        work.wait(timedelta(seconds=LOOK_SECONDS))
    except RuntimeError:
        if not work.is_completed():
            return False
        work.wait()  # returns where it ended just after the look
    return True


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
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._action()
        except BaseException as error:
            self.error = error
        finally:
            self.over.set()
