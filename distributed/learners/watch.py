"""What a learner does when another one is lost: it names it, stops waiting for it, and ends in any case.

The thread that trains may be deep in an operation that waits for the lost learner. Its connections are cut, so that it
comes out with an error; that error, which knows an address at best, is then replaced by one that names the learner. A
thread that comes out of nothing is ended with the whole process.
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NoReturn

from torch.distributed import DistError, DistStoreError, ProcessGroup, Store

from distributed.errors import UserError
from distributed.learners.centre import Centre
from distributed.learners.connections import Connections
from distributed.learners.environment import Place
from distributed.learners.liveness import CLOSED, LOOPBACK, Liveness, Member, StrangerError
from distributed.learners.secret import proof, proves
from distributed.learners.signs import UNREACHABLE, JoinError, LearnerLostError, Loss, late
from distributed.learners.stopping import Gate
from distributed.learners.store import RETRY_SECONDS
from distributed.learners.waiting import Waiter

log = logging.getLogger(__name__)

_KEY = "liveness"
_JOINING_GRACE_SECONDS = 5.0  # shorter than grace_seconds, as a learner that is joining computes nothing
_ALARM_SECONDS = 1.0  # after the deadline, at which learners that do not hang give up by themselves


class Watch:
    """Liveness of all learners, and the connections of this one.

    Args:
        join_seconds: by when all learners must be connected with each other, counted from the start of learner 0;
            the others wait as long for learner 0.
        grace_seconds: from the news of a loss until the thread that trains must have heard it; what it computes by
            itself in the meantime may take as long.
    """

    def __init__(self, place: Place, *, join_seconds: float, grace_seconds: float) -> None:
        self.place = place
        self.join_seconds = join_seconds
        self.grace_seconds = grace_seconds
        self.connections = Connections()
        self.gate = Gate(alone=False, check=self.check)
        self.waiter = Waiter()
        self.groups: list[ProcessGroup] = []  # kept until the end: one that is let go waits for what is stuck in it
        self._deadline = time.monotonic() + join_seconds
        self._joined = False
        self._heard = threading.Event()  # set once the training thread waits for no other learner any more
        self._liveness: Liveness | None = None
        self._absent: Loss | None = None  # the loss of learner 0, where it did not answer in time

    @property
    def liveness(self) -> Liveness:
        """The watch over the other learners; RuntimeError before ``start``."""
        if self._liveness is None:
            raise RuntimeError("watch.start(...) comes first")
        return self._liveness

    @property
    def launch_id(self) -> str:
        """Id of this launch: the same on all learners, a new one at each start."""
        return self.liveness.launch_id

    @contextmanager
    def joining(self) -> Iterator[None]:
        """Wraps all that a learner does until it is connected to the others: JoinError if it does not get there.

        Until it has met learner 0 only the clock can tell that the wait is over; then learner 0 does.
        """
        alarm = threading.Timer(self.join_seconds + _ALARM_SECONDS, self._give_up)
        alarm.daemon = True
        alarm.start()
        try:
            with self.naming_the_lost():
                yield
            self._joined = True
        except LearnerLostError as lost:
            raise JoinError(lost.loss) from lost
        except (RuntimeError, OSError) as error:
            if isinstance(error, UserError) or not may_be_a_lost_connection(error):
                raise
            what = f"cannot connect to the others ({' '.join(str(error).split())}): {UNREACHABLE}"
            raise JoinError(Loss(self.place.rank, what)) from error
        finally:
            alarm.cancel()

    def _give_up(self) -> None:
        if self._liveness is None:
            self._absent = late([0], "come", self.join_seconds)
            self._free(self._absent)

    def start(self, *, store: Store, master: str, secret: bytes, patience_seconds: float) -> None:
        """Find each other through the rendezvous' store, on the host ``master``; return when all have come.

        Raises:
            LearnerLostError: one has not come, or was lost before all had.
            StrangerError: learner 0 does not know the secret.
        """
        if self.place.rank == 0:
            address, interface = own_address(master, self.place.one_host)
            centre = Centre(
                size=self.place.size,
                interface=interface,
                secret=secret,
                join_seconds=self.join_seconds,
                patience_seconds=patience_seconds,
                on_loss=self._on_loss,
                gate=self.gate,
            )
            signed = proof(secret, _KEY, address, str(centre.port))
            store.set(_KEY, json.dumps([address, centre.port, signed]))
            centre.start()
            self._liveness = centre
        else:
            self._liveness = self._met(store, secret, patience_seconds)
        self.liveness.wait_for_all()

    def _met(self, store: Store, secret: bytes, patience_seconds: float) -> Member:
        """Connect to learner 0. After a restart by the launcher the store may still hold an earlier address."""
        loss = late([0], "come", self.join_seconds)
        while (left := self._deadline - time.monotonic()) > 0:
            store.set_timeout(timedelta(seconds=left))
            try:
                host, port, signed = _address(store.get(_KEY))
            except DistStoreError:
                break
            if not proves(signed, secret, _KEY, host, str(port)):
                raise StrangerError
            member = Member(
                rank=self.place.rank,
                address=(host, port),
                secret=secret,
                patience_seconds=patience_seconds,
                on_loss=self._on_loss,
                gate=self.gate,
            )
            try:
                member.start()
                return member
            except OSError as error:
                loss = Loss(0, f"cannot be reached at {host}:{port} ({error.strerror or error})")
                time.sleep(RETRY_SECONDS)
        raise LearnerLostError(loss)

    def _on_loss(self, loss: Loss) -> None:
        # A learner that joins says it as its last line; one that has heard has an error of its own to tell.
        if self._joined and not self._heard.is_set():
            log.error("%s", loss)
        threading.Thread(target=self._free, args=(loss,), name="freeing", daemon=True).start()

    def _free(self, loss: Loss) -> None:
        """Cut connections until the thread that trains has come out, new ones too; end the process if it does not."""
        deadline = time.monotonic() + (self.grace_seconds if self._joined else _JOINING_GRACE_SECONDS)
        while not self._heard.is_set():
            self.connections.cut()
            if time.monotonic() > deadline:
                self._end(loss)
            self._heard.wait(1.0)

    def _end(self, loss: Loss) -> NoReturn:
        lost = LearnerLostError(loss) if self._joined else JoinError(loss)
        log.error("error on learner %d: %s; this process was ended while still waiting", self.place.rank, lost)
        logging.shutdown()
        os._exit(1)

    @contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        """Wraps the training thread: an error caused by a loss becomes LearnerLostError; other errors are announced."""
        try:
            yield
        except BaseException as error:
            lost = self._explained(error)
            if lost is None or lost is error:
                raise
            raise lost from error

    def _explained(self, error: BaseException) -> LearnerLostError | None:
        """The loss that caused ``error``; None for an error of this learner's own, which is announced to the others."""
        already_heard = self._heard.is_set()
        self._heard.set()
        if isinstance(error, LearnerLostError):
            lost = error
        elif already_heard or not may_be_a_lost_connection(error) or (loss := self._loss_behind()) is None:
            agreed = isinstance(error, UserError) and error.agreed
            if self._liveness is not None and not agreed:
                returns = isinstance(error, UserError) and error.returns
                self._liveness.failed(str(error) or type(error).__name__, returns=returns)
            return None
        else:
            lost = LearnerLostError(loss)
        self.connections.hang_up()  # so that no learner waits for this one, which may have weights to write
        return lost

    def _loss_behind(self) -> Loss | None:
        if self._liveness is not None:
            return self._liveness.wait_for_loss()
        # So far there is but the connection to the store, on the host of learner 0.
        return self._absent or (Loss(0, CLOSED) if self.place.rank != 0 else None)

    def check(self) -> None:
        """Raise LearnerLostError if a learner is lost: for code that computes without waiting for others."""
        if self.liveness.loss is not None:
            raise LearnerLostError(self.liveness.loss)

    def close(self) -> None:
        """End the watch: this learner leaves."""
        self._heard.set()
        if self._liveness is not None:
            self._liveness.close()


def may_be_a_lost_connection(error: BaseException | None) -> bool:
    """Whether the loss of another learner may have caused ``error``: a transport of torch's raised it or its cause."""
    while error is not None:
        if isinstance(error, DistError | ConnectionError) or "gloo" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def own_address(master: str, one_host: bool) -> tuple[str, str]:
    """The address by which other learners reach this host, and the one of its addresses to listen on ("": all).

    ``master`` is the host name by which all learners reach the rendezvous.
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


def _address(entry: bytes) -> tuple[str, int, str]:
    """Host, port and signature of learner 0 as the store holds them; StrangerError if it holds anything else."""
    try:
        found = json.loads(entry)
    except (ValueError, RecursionError):
        raise StrangerError from None
    if not (isinstance(found, list) and [type(each) for each in found] == [str, int, str]):
        raise StrangerError
    host, port, signed = found
    return host, port, signed
