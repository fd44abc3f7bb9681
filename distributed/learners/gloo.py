"""Gloo's process groups outside torch's global registry, so that learners may also be threads of one process.

Gloo connects all members of a group with each other when it is made: L - 1 connections of each. Made lazily, a group connects
two of them when they first send each other something, so that learners on a fixed ring of a thousand have two connections.
"""

from collections.abc import Collection
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup, Store

from distributed.learners.environment import gloo_connects_lazily, gloo_interfaces, prepare_for_groups


def gloo_group(store: Store, rank: int, size: int, timeout_seconds: float, lazily: bool = False) -> ProcessGroup:
    """A group whose members are all connected with each other; or, ``lazily``, with nobody yet, where the transport can.

    Raises:
        RuntimeError: the others do not come within the timeout.
    """
    prepare_for_groups()
    timeout = timedelta(seconds=timeout_seconds)
    store.set_timeout(timeout)  # all addresses are read in one request, which waits as long as the store does
    group = ProcessGroup(store, rank, size)
    if lazily and gloo_connects_lazily():
        # torch's stubs name its public part alone, which has no devices.
        options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices, options._timeout = _lazy_devices(), timeout
        gloo = dist.ProcessGroupGloo(store, rank, size, options)
    else:
        gloo = dist.ProcessGroupGloo(store, rank, size, timeout)
    group._register_backend(torch.device("cpu"), ProcessGroup.BackendType.GLOO, gloo)
    group._set_default_backend(ProcessGroup.BackendType.GLOO)
    return group


def _lazy_devices() -> list[dist.ProcessGroupGloo.Device]:
    """What torch takes by default, on the same interfaces, but connecting lazily."""
    make = dist.ProcessGroupGloo
    chosen = [make.create_device(interface=name, lazy_init=True) for name in gloo_interfaces()]
    return chosen or [make.create_default_device(lazy_init=True)]


def connect(group: ProcessGroup, partners: Collection[int]) -> None:
    """Make the connections with ``partners``, who make theirs at the same time, in a group that was made lazily: exchange a byte.

    Messages of a tag arrive in their order, and all of these have arrived when it returns: later ones may have the same tag.

    Raises:
        RuntimeError: a partner is lost, or does not come within the group's timeout.
    """
    works = [group.recv([torch.empty(1, dtype=torch.uint8)], partner, 0) for partner in partners]
    works += [group.send([torch.zeros(1, dtype=torch.uint8)], partner, 0) for partner in partners]
    for work in works:
        work.wait()
