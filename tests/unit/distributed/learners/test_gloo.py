"""Groups of gloo: requests to the store counted; those that connect only who exchanges messages: connections counted, a missing partner."""

import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from distributed.gossip.topology import FixedRing
from distributed.learners import gloo
from distributed.learners.environment import gloo_connects_lazily
from distributed.learners.gloo import connect, gloo_group
from distributed.learners.world import World
from scripts.bench.meeting import connected_sockets
from scripts.composition.backends import build_backend


class CountingStore(dist.Store):
    """Counts what a group asks of the store that all members share."""

    def __init__(self, shared: dist.Store) -> None:
        super().__init__()
        self.shared = shared
        self.requests: Counter[str] = Counter()

    def has_extended_api(self) -> bool:
        return True

    def set(self, key: str, value: Any) -> None:
        self.requests["set"] += 1
        self.shared.set(key, value)

    def get(self, key: str) -> bytes:
        self.requests["get"] += 1
        return self.shared.get(key)

    def wait(self, *arguments: Any) -> None:
        self.requests["wait"] += 1
        self.shared.wait(*arguments)

    def multi_get(self, keys: list[str]) -> list[bytes]:
        self.requests["multi_get"] += 1
        return self.shared.multi_get(keys)


def test_a_member_reads_the_addresses_of_all_others_in_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    shared = dist.HashStore()
    stores = [CountingStore(shared) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        groups = list(pool.map(lambda rank: gloo_group(stores[rank], rank, 4, 20.0), range(4)))
    assert [group.size() for group in groups] == [4] * 4
    assert [store.requests for store in stores] == [Counter(set=1, multi_get=1)] * 4


def test_addresses_are_waited_for_as_long_as_the_group_waits_not_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=60))
    began = time.monotonic()
    with pytest.raises(RuntimeError):
        gloo_group(store, 0, 2, 1.0)
    assert time.monotonic() - began < 20


def opened(world: World, make: Callable[[], ProcessGroup]) -> int:
    """How many ends of connections, of all learners together, ``make`` has opened: threads share their process's sockets."""
    world.barrier()
    before = connected_sockets() if world.rank == 0 else set()
    world.barrier()
    group = make()
    world.barrier()
    number = len(connected_sockets() - before) if world.rank == 0 else 0
    assert group.size() == world.size  # kept until here: its connections go with it
    return sum(world.gather(number))


@pytest.mark.parametrize("size", [2, 3, 6])
def test_learners_on_a_ring_are_connected_with_their_neighbours_alone(
    run_learners: Callable[..., list[Any]], size: int
) -> None:
    def learner(world: World) -> tuple[int, list[float]]:
        partners = FixedRing().partners(world.rank, size)
        groups = []

        def make() -> ProcessGroup:
            groups.append(world.new_group("ring", range(size), partners=partners))
            return groups[0]

        made, group = opened(world, make), groups[0]
        received = [torch.zeros(1) for _ in partners]
        works = [group.recv([each], partner, 7) for partner, each in zip(partners, received, strict=True)]
        works += [group.send([torch.tensor([float(world.rank)])], partner, 7) for partner in partners]
        for work in works:
            work.wait()
        return made, [each.item() for each in received]

    for rank, (made, received) in enumerate(run_learners(size, learner)):
        partners = FixedRing().partners(rank, size)
        assert made == size * len(partners)
        assert received == partners


@pytest.mark.parametrize(("topology", "partners"), [("ring", 2), ("random_ring", 5), ("exponential", 4)])
def test_dpsgd_connects_what_its_topology_needs(
    run_learners: Callable[..., list[Any]], topology: str, partners: int
) -> None:
    def learner(world: World) -> int:
        backend = build_backend("dpsgd", world, topology=topology)
        made = opened(world, lambda: backend.exchange.group)
        backend.close()
        return made

    assert run_learners(6, learner) == [6 * partners] * 6


def test_where_the_transport_cannot_wait_all_are_connected_at_once(
    run_learners: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under GLOO_DEVICE_TRANSPORT=TCP_TLS, and on macOS."""
    monkeypatch.setattr(gloo, "gloo_connects_lazily", lambda: False)

    def learner(world: World) -> int:
        partners = FixedRing().partners(world.rank, 4)
        return opened(world, lambda: world.new_group("ring", range(4), partners=partners))

    assert run_learners(4, learner) == [4 * 3] * 4


@pytest.mark.parametrize(("transport", "lazily"), [(None, True), ("TCP", True), ("TCP_TLS", False), ("UV", False)])
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere gloo has another transport")
def test_only_plain_tcp_connects_lazily(monkeypatch: pytest.MonkeyPatch, transport: str | None, lazily: bool) -> None:
    monkeypatch.delenv("GLOO_DEVICE_TRANSPORT", raising=False)
    if transport is not None:
        monkeypatch.setenv("GLOO_DEVICE_TRANSPORT", transport)
    assert gloo_connects_lazily() is lazily


def test_who_waits_for_a_partner_that_does_not_come_ends_with_the_group_s_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    group = gloo_group(dist.HashStore(), 0, 2, 0.5, lazily=True)
    with pytest.raises(RuntimeError, match=r"(?i)time"):
        connect(group, [1])
