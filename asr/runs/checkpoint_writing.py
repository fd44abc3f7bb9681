"""A checkpoint that a thread writes while training goes on.

The thread sends nothing to other learners: collectives belong to the thread that trains. Learner 0's thread waits in
the checkpoint's folder for the files of the others, and then gives the folder its final name. What went wrong is agreed
upon where the training threads meet next (CheckpointFolder.finish).
"""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from asr.runs.checkpoint_manifest import one_line

LONGEST_WRITE_SECONDS = 60.0  # for which a learner that ends with an error waits for its own files
OTHERS_SECONDS = 3.0  # for which it waits for those of the others, who may be lost
_LOOK_AGAIN_SECONDS = 0.02

log = logging.getLogger(__name__)


class Writing:
    """The writing of one checkpoint by one learner, in a thread of its own."""

    def __init__(
        self, doing: str, write: Callable[[], None], awaited: Sequence[Path], complete: Callable[[], None] | None
    ) -> None:
        """Start the thread.

        Args:
            doing: what is written, as a phrase after "cannot".
            write: writes this learner's files.
            awaited: files that are there once all learners have written theirs.
            complete: learner 0's last part, done once they are; None on the others.
        """
        self.doing = doing
        self._awaited = awaited
        self._failure: BaseException | None = None
        self._written = threading.Event()  # this learner has written its files, or failed
        self._decided = threading.Event()  # no file of another learner is waited for any more
        self._given_up = False
        self._thread = threading.Thread(target=self._run, args=(write, complete), name="checkpoint", daemon=True)
        self._thread.start()

    def wait_written(self) -> None:
        """Wait for this learner's files; raises what kept it from writing them."""
        self._written.wait()
        self._raise_failure()

    def wait_completed(self) -> None:
        """Wait until the checkpoint is complete, once all have written; raises what kept learner 0 from it."""
        self._decided.set()
        self._thread.join()
        self._raise_failure()

    def give_up(self) -> None:
        """Leave the checkpoint incomplete, unless it is complete already: another learner could not write."""
        self._given_up = True
        self._decided.set()
        self._thread.join(LONGEST_WRITE_SECONDS)

    def close(self) -> None:
        """Give the checkpoint a last chance to become complete, without word from the others."""
        self._written.wait(LONGEST_WRITE_SECONDS)
        self._thread.join(OTHERS_SECONDS)
        self.give_up()

    def _run(self, write: Callable[[], None], complete: Callable[[], None] | None) -> None:
        try:
            write()
            self._written.set()
            if complete is not None and self._others_have_written():
                complete()
        except BaseException as error:
            self._failure = error
            if isinstance(error, Exception):
                log.error("cannot %s: %s", self.doing, one_line(error))
        finally:
            self._written.set()

    def _others_have_written(self) -> bool:
        """Wait for the files of the others; False if the checkpoint was given up."""
        while not all(path.exists() for path in self._awaited):
            if self._decided.wait(_LOOK_AGAIN_SECONDS):
                break
        return not self._given_up or all(path.exists() for path in self._awaited)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
