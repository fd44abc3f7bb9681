"""Entry points in real processes that are cheap to start: forked from a server that has loaded torch and the project.

A fresh interpreter takes 4 to 5 seconds of a core before the first line of an entry point; a fork takes none of them.
What a test sees is the same: a process of its own with its own arguments, environment, folder and output.
"""

import ctypes
import io
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests import compositions

END_SECONDS = 0.5  # between the end of a learner that failed and the others': torchrun looks every 0.1 s

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preloaded"])


def _enter(
    line: Sequence[str],
    folder: str,
    variables: Mapping[str, str],
    output: str,
    errors: str,
    namespace: str | None,
    known: compositions.Known | None,
) -> None:
    """What a forked process does: take everything that an exec would have given it, then run the script."""
    os.setsid()
    if known is not None:
        compositions.take(known)
    if namespace is not None:
        _enter_network(namespace)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    for number, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(line_buffering=True)
    sys.argv = list(line)
    runpy.run_path(line[0], run_name="__main__")


def _enter_network(namespace: str) -> None:
    """See the network of a namespace that ``ip netns`` has made, and no other from now on; needs root."""
    with open(f"/run/netns/{namespace}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), file.name)


_running: "set[Forked]" = set()  # nobody has seen the end of these yet


def end_all() -> None:
    """End every process that a failed test has left behind."""
    for process in list(_running):
        process.end()


class Forked:
    """A running script, with what the tests use of ``subprocess.Popen``.

    ``separate``: standard error apart from output; ``namespace``: the network that it sees.
    """

    def __init__(
        self,
        line: Sequence[str],
        folder: Path,
        *,
        separate: bool = False,
        namespace: str | None = None,
        **variables: str,
    ) -> None:
        self.args = list(line)
        self._written = Path(tempfile.mkdtemp(prefix="forked-"))
        self._output, self._errors = self._written / "output", self._written / ("errors" if separate else "output")
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
        known = compositions.known(self.args)
        self._process = SERVER.Process(
            target=_enter,
            args=(self.args, str(folder), environment, str(self._output), str(self._errors), namespace, known),
        )
        self._process.start()
        _running.add(self)
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        self.returncode = self._process.exitcode
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; one that does not come by itself is brought about, with an AssertionError."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            self.end()
            raise AssertionError(f"{self.args} still runs after {timeout} s: {self._read(self._output)}")
        _running.discard(self)
        return code

    def end(self) -> None:
        """kill -9 of the process and what it has started, and wait: at its exit the test process waits for its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.join()
        _running.discard(self)

    def communicate(self, timeout: float | None = 240) -> tuple[str, str]:
        """Wait for the end; standard output and error, of the first call only."""
        self.wait(timeout)
        printed = self._read(self._output), self._read(self._errors)
        shutil.rmtree(self._written, ignore_errors=True)
        return printed if self._output != self._errors else (printed[0], "")

    @staticmethod
    def _read(path: Path) -> str:
        return path.read_text(errors="replace") if path.exists() else ""

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9."""
        self.send_signal(signal.SIGKILL)


class Learners:
    """The learners of one host as torchrun keeps them: where one fails the others are ended."""

    def __init__(self, start: Callable[..., Forked], learners: int) -> None:
        run = {"WORLD_SIZE": str(learners), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        host = {"LOCAL_WORLD_SIZE": str(learners)}
        self.learners = [start(RANK=str(rank), LOCAL_RANK=str(rank), **run, **host) for rank in range(learners)]
        self.returncode: int | None = None
        self.failed_first: list[Forked] = []

    @property
    def pids(self) -> list[int]:
        """Of the learners, by rank."""
        return [learner.pid for learner in self.learners]

    def poll(self) -> int | None:
        """None while any learner runs, then 0, or 1 where one failed; a failure ends the others."""
        codes = [learner.poll() for learner in self.learners]
        if any(codes):
            self.failed_first = self.failed_first or [
                learner for learner, code in zip(self.learners, codes, strict=True) if code
            ]
            deadline = time.monotonic() + END_SECONDS
            while time.monotonic() < deadline and any(learner.poll() is None for learner in self.learners):
                time.sleep(0.02)
            for learner in self.learners:
                learner.send_signal(signal.SIGTERM)
            codes = [learner.wait(30) for learner in self.learners]
        self.returncode = None if None in codes else int(any(codes))
        return self.returncode

    def communicate(self, timeout: float = 240) -> tuple[str, str]:
        """Wait for the end of all; what they printed, learner by learner, last those that failed before the others."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                printed = [learner.communicate()[0] for learner in self.learners]
                raise AssertionError(f"the learners still run after {timeout} s: {printed}")
            time.sleep(0.01)
        ordered = sorted(self.learners, key=self.failed_first.__contains__)
        ends = "".join(
            f"learner {each.pid} was ended by signal {-code}\n"
            for each in self.failed_first
            if (code := each.wait()) < 0
        )
        return "".join(learner.communicate()[0] for learner in ordered) + ends, ""

    def kill(self) -> None:
        """kill -9 of all."""
        for learner in self.learners:
            learner.kill()


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listening(*pids: int) -> list[tuple[str, int]]:
    """Addresses and ports on which processes listen, this one by default: what ``ss -tlp`` would show."""
    return [_address(family, local) for family, local, _ in _sockets(pids or (os.getpid(),), state="0A")]


def connected(pid: int) -> list[tuple[str, int]]:
    """The other ends of a process's TCP connections."""
    return [_address(family, remote) for family, _, remote in _sockets((pid,), state="01")]


def _sockets(pids: Sequence[int], state: str) -> Iterator[tuple[socket.AddressFamily, str, str]]:
    """Family, own and other end of the TCP sockets of processes that are in a state, as Linux numbers them."""
    for pid in pids:
        own = _descriptors(pid)
        for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == state and f"socket:[{fields[9]}]" in own:
                    yield family, fields[1], fields[2]


def _address(family: socket.AddressFamily, written: str) -> tuple[str, int]:
    address, port = written.split(":")
    words = struct.unpack(f"{len(address) // 8}I", bytes.fromhex(address))
    return socket.inet_ntop(family, struct.pack(f">{len(words)}I", *words)), int(port, 16)


def _descriptors(pid: int) -> set[str]:
    """What a process has open. Its threads go on, so that what has just been listed can be closed when it is read."""
    found = set()
    for each in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/{pid}/fd/{each}"))
    return found
