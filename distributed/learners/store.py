"""The rendezvous' store: the small table through which learners find each other.

Under torchrun its agent hosts it, on all interfaces; scripts/launch.py hosts it on the loopback. Otherwise learner 0
does, on the loopback where all learners are on one host. Whoever reaches its port may read and write it.
"""

import socket
import time
from datetime import timedelta

from torch.distributed import Store, TCPStore

from distributed.errors import LearnerError
from distributed.learners.connections import listener
from distributed.learners.environment import Meeting, Place
from distributed.learners.liveness import LOOPBACK
from distributed.learners.signs import LearnerLostError, late

RETRY_SECONDS = 0.1  # pause between two attempts to connect
_TRY_SECONDS = 5.0  # for one try: packets to a host that does not exist may be lost without an answer


def listening_store(interface: str, port: int, size: int, timeout: timedelta) -> TCPStore:
    """A store that listens on one address of this host ("": on all), where torch's would on all.

    Raises:
        OSError: the port is taken.
    """
    with listener(interface, port) as listening:
        own = listening.getsockname()[1]
        return TCPStore(
            interface or LOOPBACK,
            own,
            world_size=size,
            is_master=True,
            timeout=timeout,
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )


def meet(place: Place, where: Meeting, join_seconds: float) -> Store:
    """Open the store or connect to it; the other learners need not have come.

    Raises:
        LearnerError: this is learner 0, and its port is taken.
        LearnerLostError: the store is not opened in time.
    """
    host = LOOPBACK if place.one_host and not where.hosted else where.address
    if place.rank == 0 and not where.hosted:
        local = host in (LOOPBACK, "localhost")
        try:
            return listening_store(LOOPBACK if local else "", where.port, place.size, timedelta(seconds=join_seconds))
        except OSError as error:
            raise LearnerError(
                f"cannot listen on port {where.port} of this host: {error.strerror or error}; choose another MASTER_PORT"
            ) from error
    left = _seconds_left_when_reached(host, where.port, join_seconds)
    return TCPStore(
        host, where.port, place.size, is_master=False, timeout=timedelta(seconds=left), wait_for_workers=False
    )


def _seconds_left_when_reached(host: str, port: int, seconds: float) -> float:
    """Seconds left of ``seconds`` once the store answers; torch's own attempts exceed their timeout up to 2.5 times."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            left = max(deadline - time.monotonic(), RETRY_SECONDS)
            socket.create_connection((host, port), timeout=min(_TRY_SECONDS, left)).close()
            return max(deadline - time.monotonic(), RETRY_SECONDS)
        except OSError as error:
            if time.monotonic() > deadline:
                why = f": nobody answers at {host}:{port} ({error.strerror or error})"
                raise LearnerLostError(late([0], "come", seconds, why)) from error
        time.sleep(RETRY_SECONDS)
