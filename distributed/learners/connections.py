"""The sockets of process groups and of the rendezvous' store, so that waits can be ended and doors closed from outside.

An operation of gloo waits for its peer as long as its group's timeout says, and nothing in its interface ends it
earlier. Closing the connection beneath it does: the operation then fails as it does when a peer has ended.

A gloo device listens for as long as its group lives, although nobody has a reason to come once all are connected, and a
process that is out of descriptors for those who come all the same is aborted (listener.cc). There is no way in its
interface to close the socket, and it does not survive that somebody else does. So the kernel is told to drop what
arrives at it (a filter, on Linux): the port stays, but no connection to it is made any more.
"""

import ctypes
import os
import resource
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_SO_ATTACH_FILTER = 26  # of Linux; Python's socket module does not name it
_RETURN_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)  # struct sock_filter: BPF_RET | BPF_K, keep 0 bytes


class Connections:
    """Remembers the TCP sockets that were opened while groups were made."""

    def __init__(self) -> None:
        self._inodes: set[int] = set()
        self._before: frozenset[int] | None = None  # what was open when the recording under way began

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Remember those that are opened within; nobody else may open any in the meantime."""
        self._before = frozenset(_sockets())
        try:
            yield
        finally:
            self._inodes, self._before = self._known(), None

    def cut(self) -> int:
        """Let those that are still open read their end, as if the peer had closed them; returns how many."""
        # Their writing end stays: gloo's thread may be about to write.
        return self._shut_down(socket.SHUT_RD)

    def hang_up(self) -> int:
        """Close them for the peers too; returns how many. No operation may be under way that shall succeed."""
        return self._shut_down(socket.SHUT_RDWR)

    def close_doors(self) -> int:
        """Let nobody connect to those that listen any more; returns how many. Elsewhere than on Linux they stay open."""
        number = 0
        for descriptor in self._open() if sys.platform == "linux" else ():
            with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as listener:
                if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    _drop_what_arrives(listener)
                    number += 1
        return number

    def _known(self) -> set[int]:
        """The sockets that were recorded; where that is under way, those opened until now too."""
        return self._inodes if self._before is None else self._inodes | (_sockets().keys() - self._before)

    def _open(self) -> list[int]:
        """Descriptors of those that are still open."""
        # Descriptors are given out again, a socket's inode is not: somebody else's socket stays as it is.
        known = self._known()
        return [descriptor for inode, descriptor in _sockets().items() if inode in known]

    def _shut_down(self, how: int) -> int:
        number = 0
        for descriptor in self._open():
            with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
                connection.getpeername()  # OSError: it listens, which gloo would not survive, or was closed just now
                connection.shutdown(how)
                number += 1
        return number


def _drop_what_arrives(listener: socket.socket) -> None:
    """Connections that were accepted before do not notice."""
    program = ctypes.create_string_buffer(_RETURN_NOTHING)
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))


def allow_all_descriptors() -> None:
    """As many open files as the system lets this process have: until doors are closed, strangers may take some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS grants less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _sockets() -> dict[int, int]:
    """Descriptors of this process's open sockets, by inode."""
    found = {}
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # the listing's own descriptor is closed by now
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                found[status.st_ino] = int(name)
    return found
