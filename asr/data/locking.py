"""A lock among processes of one or several hosts: a file, locked by ``flock``, that a killed process gives back."""

import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_SECONDS = 0.1
PATIENCE_SECONDS = 3.0  # time to wait for another process before this is logged

logger = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, holder: str) -> Iterator[None]:
    """Inside, this process alone holds the lock of the file ``path``, which is made where it is missing.

    ``holder`` says whom a process waits for, in the line that is logged after a while.

    Raises:
        OSError: the file cannot be written, or the file system has no locks.
    """
    with path.open("w") as file:
        started, logged = time.monotonic(), False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not logged and time.monotonic() - started > PATIENCE_SECONDS:
                    logger.info("waiting for %s", holder)
                    logged = True
                time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
