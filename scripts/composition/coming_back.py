"""A run whose numbers went bad goes on from its newest checkpoint by itself, once in a launch, without the batches behind it.

Each learner's process starts its own program anew, so that nothing of the bad numbers remains: weights, moments,
messages under way, connections. To its launcher it is the same process.
"""

import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from asr.runs.checkpoint import list_checkpoints
from asr.runs.run_folder import RunFolder
from distributed.errors import UserError
from distributed.learners.environment import has_returned, note_return

log = logging.getLogger(__name__)


def comes_back(error: UserError, folder: Path) -> bool:
    """Whether the run in ``folder`` shall return: if numbers went bad, for the first time, and there is a checkpoint."""
    return error.returns and not has_returned() and bool(list_checkpoints(RunFolder(folder).checkpoints)[0])


def come_back(error: UserError) -> NoReturn:
    """Start this process' program anew, with the same arguments."""
    log.warning("%s; returning to the newest checkpoint by itself, without the batches in left_out/, this once", error)
    note_return()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > sys.stderr.fileno():
            _close_on_exec(descriptor)
    os.execv(sys.executable, [sys.executable, "-u", *sys.argv])


def _close_on_exec(descriptor: int) -> None:
    """Mark a descriptor, sockets of torch among them, which would go on listening."""
    try:
        os.set_inheritable(descriptor, False)
    except OSError:  # the one that has listed the folder is closed by now
        return
