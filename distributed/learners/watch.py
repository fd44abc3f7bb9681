"""What a learner does about a lost one: name it, stop waiting for it, and end in any case.

The thread that trains may be deep in an operation that waits for the lost learner. Its connections are cut, so that it
comes out with an error; that error, which knows an address at best, is then replaced by one that names the learner. A
thread that comes out of nothing is ended with the whole process.
"""

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from torch.distributed import DistError, Store

from distributed.learners.connections import Connections
from distributed.learners.liveness import LOOPBACK, Centre, Liveness, Member
from distributed.learners.signs import LearnerLostError, Loss

log = logging.getLogger(__name__)

_KEY = "liveness"


class Watch:
    """Liveness of all learners, and the connections of this one.

    Args:
        grace_seconds: from the news of a loss until the thread that trains must have heard it; what it computes by
            itself in the meantime may take as long.
    """

    def __init__(self, *, grace_seconds: float) -> None:
        self.grace_seconds = grace_seconds
        self.connections = Connections()
        self.launch_id = ""  # the same on all learners, another one at each start
        self._heard = threading.Event()  # the thread that trains waits for nobody any more
        self._liveness: Liveness | None = None

    @property
    def liveness(self) -> Liveness:
        """Who is alive."""
        if self._liveness is None:
            raise RuntimeError("watch.start(...) comes first")
        return self._liveness

    def start(self, *, rank: int, store: Store, master: str, one_host: bool, patience_seconds: float) -> None:
        """Find each other through the rendezvous' store, on the host ``master``, and begin to watch.

        Raises:
            OSError: learner 0 cannot be reached.
        """
        if rank == 0:
            address, interface = own_address(master, one_host)
            centre = Centre(interface=interface, patience_seconds=patience_seconds, on_loss=self._on_loss)
            self.launch_id = secrets.token_hex(4)
            store.set(_KEY, json.dumps([address, centre.port, centre.token, self.launch_id]))
            self._liveness = centre
        else:
            host, port, token, self.launch_id = json.loads(store.get(_KEY))
            self._liveness = Member(
                rank=rank,
                address=(host, port),
                token=token,
                patience_seconds=patience_seconds,
                on_loss=self._on_loss,
            )
        self._liveness.start()

    def _on_loss(self, loss: Loss) -> None:
        if not self._heard.is_set():  # otherwise this learner has an error of its own to tell
            log.error("%s", loss)
        threading.Thread(target=self._free, args=(loss,), name="freeing", daemon=True).start()

    def _free(self, loss: Loss) -> None:
        """Cut connections until the thread that trains has come out, new ones too; end the process if it does not."""
        deadline = time.monotonic() + self.grace_seconds
        while not self._heard.is_set():
            self.connections.cut()
            if time.monotonic() > deadline:
                self._end(loss)
            self._heard.wait(1.0)

    def _end(self, loss: Loss) -> NoReturn:
        line = f"error on learner {self.liveness.rank}: {LearnerLostError(loss)}; ended while it still waited for it"
        log.error("%s", line)
        logging.shutdown()
        os._exit(1)

    @contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        """Around what the thread that trains does: an error that comes of a loss becomes LearnerLostError; others are told."""
        try:
            yield
        except BaseException as error:
            lost = self._explained(error)
            if lost is None or lost is error:
                raise
            raise lost from error

    def _explained(self, error: BaseException) -> LearnerLostError | None:
        """The loss that an error comes of. An error of this learner's own is told to the others, and nothing here."""
        told = self._heard.is_set()
        self._heard.set()
        if isinstance(error, LearnerLostError):
            lost = error
        elif told or not of_a_connection(error) or (loss := self.liveness.wait_for_loss()) is None:
            self.liveness.failed(str(error) or type(error).__name__)
            return None
        else:
            lost = LearnerLostError(loss)
        self.connections.hang_up()  # nobody shall wait for this learner, which may have weights to write
        return lost

    def check(self) -> None:
        """Raise LearnerLostError if somebody is: for those who compute without waiting for others."""
        if self.liveness.loss is not None:
            raise LearnerLostError(self.liveness.loss)

    def close(self) -> None:
        """This learner leaves."""
        self._heard.set()
        self.liveness.close()


def of_a_connection(error: BaseException | None) -> bool:
    """Whether an error may come of the loss of another learner: it is one of torch's transports, or caused by one."""
    while error is not None:
        if isinstance(error, DistError | ConnectionError) or "gloo" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def own_address(master: str, one_host: bool) -> tuple[str, str]:
    """By what address the other learners reach this host, and on which of its addresses to listen ("": all).

    ``master`` is how all of them reach the rendezvous.
    """
    if one_host:
        return LOOPBACK, LOOPBACK
    family, kind, _, _, address = socket.getaddrinfo(master, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)  # of a datagram socket: chooses a route, sends nothing
        own: str = probe.getsockname()[0]
    if own != "::1" and not own.startswith("127."):
        return own, own
    # This is the rendezvous' own host, and the route the loopback. Others have reached it under its name.
    return (LOOPBACK, LOOPBACK) if master in ("localhost", LOOPBACK) else (master, "")
