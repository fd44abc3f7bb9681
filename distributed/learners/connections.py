"""The sockets of process groups and of the rendezvous' store, so that waits can be ended and doors closed from outside.

An operation of gloo waits for its peer as long as its group's timeout says, and nothing in its interface ends it
earlier. Closing the connection beneath it does: the operation then fails as it does when a peer has ended.

A gloo device listens for as long as its group lives, although no learner connects once all are connected. Foreign
connections can then use up the process's file descriptors, on which gloo aborts the process (listener.cc). Its
interface has no way to close the listening socket, and gloo does not survive that other code closes it. So a socket
filter (on Linux) makes the kernel drop what arrives there: the port stays open, but accepts no new connection.
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


def listener(interface: str, port: int = 0, backlog: int | None = None) -> socket.socket:
    """A listening TCP socket on one address of this host; "": on all addresses, of IPv4 and of IPv6 where there is any.

    Raises:
        OSError: the port is taken.
    """
    if interface:
        family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        return socket.create_server((interface, port), family=family, backlog=backlog)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True)
    return socket.create_server(("", port), backlog=backlog)


class Connections:
    """Records the TCP sockets that were opened while groups were made."""

    def __init__(self) -> None:
        self._inodes: set[int] = set()
        self._before: frozenset[int] | None = None  # sockets open when the present recording began

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the sockets that are opened inside; other code may not open any in the meantime."""
        self._before = frozenset(sockets())
        try:
            yield
        finally:
            self._inodes, self._before = self._known(), None

    def cut(self) -> int:
        """End reading on the recorded sockets, as if the peer had closed them; returns how many were still open."""
        # Their writing end stays: gloo's thread may be about to write.
        return self._shut_down(socket.SHUT_RD)

    def hang_up(self) -> int:
        """Close the recorded sockets, for the peers too; returns how many. Operations under way on them fail."""
        return self._shut_down(socket.SHUT_RDWR)

    def close_doors(self) -> int:
        """Refuse new connections to the listening sockets; returns how many. They stay open elsewhere than on Linux."""
        number = 0
        for descriptor in self._open() if sys.platform == "linux" else ():
            with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as listener:
                if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    _drop_what_arrives(listener)
                    number += 1
        return number

    def _known(self) -> set[int]:
        """The recorded sockets, those of a recording under way included."""
        return self._inodes if self._before is None else self._inodes | (sockets().keys() - self._before)

    def _open(self) -> list[int]:
        """Descriptors of the recorded sockets that are still open."""
        # Compared by inode: descriptors are reused, so that one may belong to another socket by now.
        known = self._known()
        return [descriptor for inode, descriptor in sockets().items() if inode in known]

    def _shut_down(self, how: int) -> int:
        number = 0
        for descriptor in self._open():
            with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
                connection.getpeername()  # OSError: it listens, which gloo would not survive, or was closed just now
                connection.shutdown(how)
                number += 1
        return number


def _drop_what_arrives(listener: socket.socket) -> None:
    """Drop all packets that arrive at a listening socket; connections accepted before are not affected."""
    program = ctypes.create_string_buffer(_RETURN_NOTHING)
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))


def allow_all_descriptors() -> None:
    """Raise the limit of open files to what the system allows: until doors are closed, strangers may use some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS grants less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def sockets() -> dict[int, int]:
    """Descriptors of this process's open sockets, by inode."""
    found = {}
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # the listing's own descriptor is closed by now
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                found[status.st_ino] = int(name)
    return found
