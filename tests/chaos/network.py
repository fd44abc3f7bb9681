"""Links that are cut, and strangers at the doors: connections that say nothing, and such that say nonsense."""

import errno
import random
import resource
import selectors
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from scripts.bench.namespaces import Host, linked_hosts
from tests.chaos.ground import Ground, Tried
from tests.chaos.oracle import check_fault, intact
from tests.chaos.trial import GRACE, PATIENCE, BrokenPromiseError
from tests.processes import listening

IDLE = 1000  # connections per port, at most
SHORT = (0.2, 2.0)  # seconds of a cut that nobody is lost by


def partition(ground: Ground, draw: random.Random) -> Iterator[Tried]:
    """The link of one host is cut, for a moment or for good; each learner is on a host of its own."""
    trial = ground.trial(draw, learners=draw.choice((2, 3)))
    with linked_hosts(trial.learners) as hosts:
        for window in ground.windows:
            victim, short = draw.randrange(trial.learners), draw.random() < 0.4
            before = intact(trial)
            trial.start(hosts=hosts)
            trial.wait_for_step(draw.randint(*window))
            before |= intact(trial)
            faulted = time.time()
            _set_link(hosts[victim], "down")
            if short:
                time.sleep(draw.uniform(*SHORT))
                _set_link(hosts[victim], "up")
            ended = trial.wait(within=None if short else PATIENCE + GRACE, faulted=faulted)
            if not short:
                _set_link(hosts[victim], "up")
            yield Tried(f"{check_fault(trial, ended, before)} ({'short' if short else 'for good'})", ended.seconds)
            if ended.done:
                return ground.judge(trial, ended)
        trial.start(hosts=hosts)
        return ground.close(trial)


def _set_link(host: Host, state: str) -> None:
    subprocess.run(["ip", "-n", host.namespace, "link", "set", host.interface, state], check=True)


def strangers(ground: Ground, draw: random.Random) -> Iterator[Tried]:
    """Every port that the learners of one host listen on gets idle connections and nonsense: the run goes on."""
    trial = ground.trial(draw, pace=0.1)
    trial.start(one=True)
    with ExitStack() as held, _many_descriptors():
        tried = _knock(trial.port, draw, held) if draw.random() < 0.5 else 0  # while they join
        for window in ground.windows[:3]:
            trial.wait_for_step(window[0])
            doors = listening(*(each.pid for each in trial.running))
            if beyond := {address for address, _ in doors} - {"127.0.0.1", "::1"}:
                raise BrokenPromiseError(f"learners of one host listen on {beyond}")
            tried += sum(_knock(port, draw, held) for _, port in doors)
        ended = trial.wait()
    yield Tried(check_fault(trial, ended, ()), None, tried)
    ground.judge(trial, ended)


NONSENSE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), bytes(4096),
    b"\xff" * 4096, (1 << 62).to_bytes(8, "little") * 8, b"\x00\x00\x00\x01", b"\x80\x04K\x01.", b"\n",
)  # fmt: skip


def _knock(port: int, draw: random.Random, held: ExitStack) -> int:
    """Do one of three things to a port, which may not be open (any more); 1, the number of faults."""
    with suppress(OSError):
        match draw.choice(("nonsense", "noise", "idle")):
            case "idle":
                _idle(port, draw.choice((10, 100, IDLE)), held)
            case kind:
                for _ in range(draw.choice((1, 5, 50))):
                    content = (
                        draw.choice(NONSENSE) if kind == "nonsense" else draw.randbytes(draw.choice((1, 100, 100_000)))
                    )
                    stranger = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=0.5))
                    stranger.sendall(content)
                    if draw.random() < 0.5:
                        stranger.close()
    return 1


def _idle(port: int, number: int, held: ExitStack) -> None:
    """Connections that stay and say nothing."""
    with selectors.DefaultSelector() as selector:
        for _ in range(number):
            idle = held.enter_context(socket.socket())
            idle.setblocking(False)
            if idle.connect_ex(("127.0.0.1", port)) != errno.EINPROGRESS:
                break
            selector.register(idle, selectors.EVENT_WRITE)
        selector.select(0.2)


@contextmanager
def _many_descriptors() -> Iterator[None]:
    """This process may hold all the connections."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
