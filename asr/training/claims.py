"""Claims of a pool's units that are made while the step before is trained, so that no step waits for their message."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

from distributed.backend import Claim


class ClaimsAhead:
    """The claims of one stretch of the plan, in order.

    One at a time is made ahead, by a thread of its own, which is started when it is first needed.

    Args:
        claim: makes the next claim; may be called in that thread, never twice at once.
        ahead: whether the claim after this one shall be made already.
    """

    def __init__(self, claim: Callable[[], Claim], ahead: Callable[[Claim], bool]) -> None:
        self._claim = claim
        self._wanted = ahead
        self._ahead: Future[Claim] | None = None
        self._asked: SimpleQueue[Future[Claim] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def next(self) -> Claim:
        """The next claim; raises the error that making it has ended with."""
        claim = self._claim() if self._ahead is None else self._ahead.result()
        self._ahead = self._ask() if self._wanted(claim) else None
        return claim

    def close(self) -> None:
        """Let the thread end. A claim that it has under way is left to nobody."""
        self._asked.put(None)

    def _ask(self) -> Future[Claim]:
        if self._thread is None:
            # A daemon, as a store that does not answer must not keep a learner that fails from ending.
            self._thread = threading.Thread(target=self._run, name="claims", daemon=True)
            self._thread.start()
        claim: Future[Claim] = Future()
        self._asked.put(claim)
        return claim

    def _run(self) -> None:
        while (claim := self._asked.get()) is not None:
            try:
                claim.set_result(self._claim())
            except BaseException as error:
                claim.set_exception(error)
