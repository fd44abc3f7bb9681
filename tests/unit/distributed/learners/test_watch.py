"""Waits that are cut, and errors that come of a loss."""

import socket
import threading
import time
from typing import Any

import pytest
import torch
from torch.distributed import DistNetworkError, HashStore

from distributed.learners.connections import Connections
from distributed.learners.launch import gloo_group
from distributed.learners.liveness import LOOPBACK
from distributed.learners.signs import LearnerLostError, Loss
from distributed.learners.watch import Watch, of_a_connection, own_address


def test_cutting_ends_a_wait_in_gloo_and_leaves_other_sockets_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    here, there = socket.socketpair()
    connections, store, groups = Connections(), HashStore(), {}

    def join(rank: int) -> None:
        groups[rank] = gloo_group(store, rank, 2, 60.0)

    with connections.recording():
        joining = [threading.Thread(target=join, args=(rank,)) for rank in (0, 1)]
        for thread in joining:
            thread.start()
        for thread in joining:
            thread.join()
    work = groups[0].recv([torch.zeros(1)], 1, 0)
    threading.Timer(0.2, connections.cut).start()
    started = time.monotonic()
    with pytest.raises(RuntimeError) as caught:
        work.wait()
    assert time.monotonic() - started < 10
    assert of_a_connection(caught.value)
    here.sendall(b"still open")
    assert there.recv(20) == b"still open"
    here.close()
    there.close()


def test_nothing_is_cut_that_was_opened_outside() -> None:
    connections = Connections()
    with socket.create_server((LOOPBACK, 0)) as listener:
        with connections.recording():
            pass
        with socket.create_connection(listener.getsockname()):
            assert connections.cut() == 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[/pytorch/third_party/gloo/...] Connection closed by peer"), True),
        (DistNetworkError("Broken pipe"), True),
        (ConnectionResetError(), True),
        (ValueError("batch.units must be positive"), False),
    ],
)
def test_errors_of_connections_are_known_by_themselves_or_their_cause(error: Exception, expected: bool) -> None:
    wrapped = RuntimeError("the exchange failed")
    wrapped.__cause__ = error
    assert (of_a_connection(error), of_a_connection(wrapped)) == (expected, expected)


def two_watches() -> list[Watch]:
    store, watches = HashStore(), [Watch(grace_seconds=30.0), Watch(grace_seconds=30.0)]
    for rank, watch in enumerate(watches):
        watch.start(rank=rank, store=store, master="localhost", one_host=True, patience_seconds=0.7)
    return watches


def test_an_error_of_a_connection_becomes_the_loss_that_caused_it() -> None:
    watches = two_watches()
    assert watches[0].launch_id == watches[1].launch_id != ""
    with pytest.raises(OSError, match="disk full"), watches[1].naming_the_lost():
        raise OSError("disk full")
    with pytest.raises(LearnerLostError, match="learner 1 failed: disk full") as caught, watches[0].naming_the_lost():
        raise RuntimeError("gloo: Connection closed by peer")
    assert caught.value.loss == Loss(1, "failed: disk full")
    with pytest.raises(LearnerLostError):
        watches[0].check()
    for watch in watches:
        watch.close()


@pytest.mark.parametrize("error", [ValueError("own"), KeyboardInterrupt("own")])
@pytest.mark.parametrize("after_a_loss", [False, True])
def test_an_own_error_is_raised_as_it_is(error: BaseException, after_a_loss: bool) -> None:
    watches = two_watches()
    if after_a_loss:
        watches[1].liveness.failed("theirs")
        assert watches[0].liveness.wait_for_loss() is not None
    with pytest.raises(type(error), match="own"), watches[0].naming_the_lost():
        raise error
    if after_a_loss:
        for watch in watches:
            watch.close()
        return
    watches[0].close()
    assert watches[1].liveness.wait_for_loss() == Loss(0, "failed: own")
    watches[1].close()


def test_an_error_that_was_looked_at_is_not_waited_for_again() -> None:
    watches = two_watches()
    for _ in range(2):
        started = time.monotonic()
        with pytest.raises(RuntimeError, match="gloo"), watches[0].naming_the_lost():
            raise RuntimeError("gloo: something else")
        waited = time.monotonic() - started
    assert waited < watches[0].liveness.patience_seconds
    for watch in watches:
        watch.close()


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_address("anything", one_host=True) == (LOOPBACK, LOOPBACK)
    assert own_address("localhost", one_host=False) == (LOOPBACK, LOOPBACK)
    assert own_address("127.0.0.2", one_host=False) == ("127.0.0.2", "")  # a name of this host that others resolve
    probes: list[Any] = []

    class Probe(socket.socket):
        def connect(self, address: Any) -> None:
            probes.append(address)

        def getsockname(self) -> Any:
            return ("10.1.2.3", 4)

    monkeypatch.setattr(socket, "socket", Probe)
    assert own_address("127.0.0.1", one_host=False) == ("10.1.2.3", "10.1.2.3")
    assert probes
