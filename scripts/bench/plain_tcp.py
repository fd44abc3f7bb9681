"""Plain TCP between two learners: the goodput of a link, and the computing time that the transfer takes from cores.

Every scheme's exchange goes through the kernel like this, with its own work on top.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PORT = 29578
ATTEMPTS, PAUSE_SECONDS = 100, 0.1  # while the other learner is not there yet
MIB = 1 << 20


@contextmanager
def connection(rank: int, address: str) -> Iterator[socket.socket]:
    """A connection between learners 0, which listens at ``address``, and 1."""
    if rank == 0:
        with socket.create_server((address, PORT)) as server, server.accept()[0] as joined:
            yield joined
        return
    with _joined(address) as joined:
        yield joined


def _joined(address: str) -> socket.socket:
    for _ in range(ATTEMPTS):
        try:
            return socket.create_connection((address, PORT))
        except ConnectionRefusedError:
            time.sleep(PAUSE_SECONDS)
    waited = ATTEMPTS * PAUSE_SECONDS
    raise ConnectionError(f"learner 0 does not listen at {address}:{PORT} after {waited:g} s; its output says why")


def exchange(joined: socket.socket, message_bytes: int) -> None:
    """Send and receive a message at the same time."""
    outgoing, incoming = bytes(message_bytes), memoryview(bytearray(MIB))
    sender = threading.Thread(target=joined.sendall, args=(outgoing,))
    sender.start()
    left = message_bytes
    while left:
        left -= joined.recv_into(incoming, min(left, MIB))
    sender.join()


@contextmanager
def saturated(rank: int, address: str) -> Iterator[Callable[[], int]]:
    """Fill the link in both directions by two threads of each learner; gives the number of bytes sent here so far."""
    outgoing, incoming = bytes(MIB), memoryview(bytearray(MIB))
    sent, over = 0, False

    def send() -> None:
        nonlocal sent
        while not over:
            joined.sendall(outgoing)
            sent += MIB
        joined.shutdown(socket.SHUT_WR)

    def receive() -> None:
        while joined.recv_into(incoming):
            pass

    with connection(rank, address) as joined:
        threads = [threading.Thread(target=each) for each in (send, receive)]
        for thread in threads:
            thread.start()
        try:
            yield lambda: sent
        finally:
            over = True
            for thread in threads:
                thread.join()
