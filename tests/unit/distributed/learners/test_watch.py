"""Waits that are cut, and errors that come of a loss."""

import json
import resource
import socket
import threading
import time
from typing import Any

import pytest
import torch
from torch.distributed import DistNetworkError, HashStore

from distributed.learners.connections import Connections, allow_all_descriptors
from distributed.learners.environment import Place
from distributed.learners.gloo import gloo_group
from distributed.learners.liveness import LOOPBACK, StrangerError
from distributed.learners.secret import proof
from distributed.learners.signs import JoinError, LearnerLostError, Loss
from distributed.learners.watch import Watch, may_be_a_lost_connection, own_address


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
    assert may_be_a_lost_connection(caught.value)
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
    assert (may_be_a_lost_connection(error), may_be_a_lost_connection(wrapped)) == (expected, expected)


def test_nobody_connects_to_a_closed_door_and_what_was_connected_stays() -> None:
    connections = Connections()
    with socket.create_server((LOOPBACK, 0)) as other:
        with connections.recording():
            listener = socket.create_server((LOOPBACK, 0))
        with listener, socket.create_connection(listener.getsockname()) as before, listener.accept()[0] as accepted:
            assert connections.close_doors() == 1
            with pytest.raises(TimeoutError):
                socket.create_connection(listener.getsockname(), timeout=0.3)
            before.sendall(b"still open")
            assert accepted.recv(20) == b"still open"
            socket.create_connection(other.getsockname(), timeout=5).close()


def test_what_is_being_opened_can_be_cut_too() -> None:
    connections = Connections()
    with (
        socket.create_server((LOOPBACK, 0)) as listener,
        connections.recording(),
        socket.create_connection(listener.getsockname()) as waiting,
    ):
        assert connections.cut() == 1
        assert waiting.recv(1) == b""


def test_the_limit_of_open_files_is_raised_to_the_maximum() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[0] - 1, before[1]))
        allow_all_descriptors()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_address_of_a_launch_that_has_ended_is_passed_over() -> None:
    """As after a restart under torchrun, whose store stays."""
    store = HashStore()
    for each in two_watches(store):
        each.close()
    watches = two_watches(store)
    assert watches[0].launch_id == watches[1].launch_id != ""
    for each in watches:
        each.close()


def test_an_address_published_without_the_secret_is_refused() -> None:
    store = HashStore()
    store.set("liveness", json.dumps([LOOPBACK, 9, proof(b"guessed", "liveness", LOOPBACK, "9")]))
    watch = Watch(Place(1, 2, 1, 2, launched=True), join_seconds=30.0, grace_seconds=30.0)
    with pytest.raises(StrangerError, match="do not know the same secret: set MURMURATION_SECRET"):
        watch.start(store=store, master="localhost", secret=b"one", patience_seconds=0.7)


@pytest.mark.parametrize("entry", ["garbage", "5", '["h", 1, null]', '["h", "1", "x"]', "[" * 5000])
def test_what_is_no_address_is_refused_in_one_line(entry: str) -> None:
    store = HashStore()
    store.set("liveness", entry)
    watch = Watch(Place(1, 2, 1, 2, launched=True), join_seconds=30.0, grace_seconds=30.0)
    with pytest.raises(StrangerError):
        watch.start(store=store, master="localhost", secret=b"one", patience_seconds=0.7)


@pytest.mark.parametrize("what", ["late", "cut"])
def test_a_start_without_learner_0_is_a_join_error_with_its_name(what: str) -> None:
    watch = Watch(Place(1, 2, 1, 2, launched=True), join_seconds=0.3, grace_seconds=30.0)

    def start() -> None:
        with watch.joining():
            if what == "cut":
                raise DistNetworkError("Connection reset by peer")
            watch.start(store=HashStore(), master="localhost", secret=b"one", patience_seconds=0.7)

    with pytest.raises(JoinError, match=r"the learners have not met: learner 0 has .*; see why in its log") as caught:
        start()
    assert caught.value.exit_code == 1
    assert ("within 0.3 seconds (launch.join_seconds)" in str(caught.value)) == (what == "late")


def test_without_a_connection_the_error_asks_for_the_interface() -> None:
    watch = Watch(Place(0, 2, 0, 2, launched=True), join_seconds=30.0, grace_seconds=30.0)
    message = (
        r"learner 0 cannot connect to the others \(Gloo connectFullMesh failed\): can they reach each other, on the"
    )
    with pytest.raises(JoinError, match=message), watch.joining():
        raise RuntimeError("Gloo connectFullMesh\n failed")
    with pytest.raises(ValueError, match="ours to mend"), watch.joining():
        raise ValueError("ours to mend")


def two_watches(store: HashStore | None = None) -> list[Watch]:
    watches = [
        Watch(Place(rank, 2, rank, 2, launched=True), join_seconds=30.0, grace_seconds=30.0) for rank in range(2)
    ]
    found = {"store": HashStore() if store is None else store, "master": "localhost", "secret": b"one"}
    starting = [threading.Thread(target=each.start, kwargs=found | {"patience_seconds": 0.7}) for each in watches]
    for thread in starting:
        thread.start()
    for thread in starting:
        thread.join(20)
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
