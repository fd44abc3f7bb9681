"""The sockets of process groups, so that a wait for a learner that is lost can be ended from another thread.

An operation of gloo waits for its peer as long as its group's timeout says, and nothing in its interface ends it
earlier. Closing the connection beneath it does: the operation then fails as it does when a peer has ended.
"""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Connections:
    """Remembers the TCP connections that were opened while groups were made."""

    def __init__(self) -> None:
        self._inodes: set[int] = set()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Remember those that are opened within; nobody else may open any in the meantime."""
        before = _sockets().keys()
        yield
        self._inodes |= _sockets().keys() - before

    def cut(self) -> int:
        """Let those that are still open read their end, as if the peer had closed them; returns how many."""
        # Their writing end stays: gloo's thread may be about to write.
        return self._shut_down(socket.SHUT_RD)

    def hang_up(self) -> int:
        """Close them for the peers too; returns how many. No operation may be under way that shall succeed."""
        return self._shut_down(socket.SHUT_RDWR)

    def _shut_down(self, how: int) -> int:
        number = 0
        for inode, descriptor in _sockets().items():
            # Descriptors are given out again, a socket's inode is not: somebody else's socket stays as it is.
            if inode in self._inodes:
                with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
                    connection.getpeername()  # OSError: it listens, which gloo would not survive, or was closed just now
                    connection.shutdown(how)
                    number += 1
        return number


def _sockets() -> dict[int, int]:
    """Descriptors of this process's open sockets, by inode."""
    found = {}
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # the listing's own descriptor is closed by now
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                found[status.st_ino] = int(name)
    return found
