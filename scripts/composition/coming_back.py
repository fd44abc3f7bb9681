"""A run whose numbers went bad goes on from its newest checkpoint by itself, once in a launch, without the batches behind it.

Each learner's process starts its own program anew, so that nothing of the bad numbers remains: weights, moments,
messages under way, connections. To its launcher it is the same process.
"""

import logging
import os
import sys
from typing import NoReturn

from distributed.errors import UserError
from distributed.learners.environment import note_return
from distributed.learners.signs import LearnerLostError

log = logging.getLogger(__name__)


class ComingBackError(UserError):
    """The run is to go on from its newest checkpoint; ``error`` says why, and is known to the others already."""

    agreed = True

    def __init__(self, error: UserError) -> None:
        super().__init__(str(error))
        self.error = error


def come_back(error: UserError) -> NoReturn:
    """Start this process' program anew, with the same arguments."""
    why = error.loss if isinstance(error, LearnerLostError) else error
    log.warning("%s; returning to the newest checkpoint by itself, without the batches in left_out/, this once", why)
    note_return()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    for descriptor in map(int, os.listdir("/dev/fd")):
        if descriptor > sys.stderr.fileno():
            _close_on_exec(descriptor)
    os.execv(sys.executable, [sys.executable, "-u", *sys.argv])


def _close_on_exec(descriptor: int) -> None:
    """Mark a descriptor, sockets of torch among them, which would go on listening."""
    try:
        os.set_inheritable(descriptor, False)
    except OSError:  # the one that has listed the folder is closed by now
        return
