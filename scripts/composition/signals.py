"""SIGTERM, SIGINT and SIGUSR1 while a run trains: all learners write a checkpoint after the step under way, and end.

Schedulers send them before they take a machine away, users press Ctrl-C. A second signal ends the learner at once.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from distributed.learners.world import World

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_TOGETHER_SECONDS = 3.0  # a terminal, a launcher and a scheduler may each pass on the same signal


@contextmanager
def stopping_on_signals(world: World) -> Iterator[None]:
    """Within: a signal asks all learners to stop, where they can agree on it; else signals act as ever."""
    if not world.can_agree or threading.current_thread() is not threading.main_thread():
        yield
        return
    first: float | None = None

    def ask(number: int, _: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if first is None:
            first = now
            world.gate.ask(f"{signal.Signals(number).name} on learner {world.rank}")
        elif now - first > _TOGETHER_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
