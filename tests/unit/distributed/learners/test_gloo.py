"""Groups that connect only those who exchange messages: connections counted, messages as in other groups, a partner that is missing."""

import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
import torch.distributed as dist

from distributed.gossip.topology import FixedRing
from distributed.learners.gloo import connect, gloo_group
from distributed.learners.world import World
from scripts.composition.backends import build_backend


def connections(world: World) -> int:
    """Connected TCP sockets of this process, in which both ends of a connection between threads lie; counted by learner 0 for all."""
    world.barrier()
    number = counted() if world.rank == 0 else 0
    return sum(world.gather(number))


def counted() -> int:
    number = 0
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as each:
                    each.getpeername()
                    number += each.family in (socket.AF_INET, socket.AF_INET6)
    return number


@pytest.mark.parametrize("size", [2, 3, 6])
def test_learners_on_a_ring_are_connected_with_their_neighbours_alone(
    run_learners: Callable[..., list[Any]], size: int
) -> None:
    def learner(world: World) -> tuple[int, list[float]]:
        before = connections(world)
        partners = FixedRing().partners(world.rank, size)
        group = world.new_group("ring", range(size), partners=partners)
        made = connections(world) - before
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
        before = connections(world)
        assert backend.exchange.group.size() == 6
        made = connections(world) - before
        backend.close()
        return made

    assert run_learners(6, learner) == [6 * partners] * 6


def test_who_waits_for_a_partner_that_does_not_come_ends_with_the_group_s_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    group = gloo_group(dist.HashStore(), 0, 2, 0.5, lazily=True)
    with pytest.raises(RuntimeError, match=r"(?i)time"):
        connect(group, [1])
