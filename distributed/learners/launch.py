"""Where learners come from.

``start()`` joins the others, as the launcher says (see environment.py); one process without a launcher takes the same
path, as a group of one. What comes of it is a ``World`` (world.py).

Unless GLOO_SOCKET_IFNAME says otherwise, learners that all run on one host talk over the loopback interface alone, and
no port of theirs can be reached from elsewhere. Unless TORCH_FR_BUFFER_SIZE says otherwise, torch's flight recorder of
collectives is off; unless GLOO_ENABLE_STORE_V2_API does, gloo reads all addresses at once (see ``prepare_for_groups``);
unless ONEDNN_PRIMITIVE_CACHE_CAPACITY does, oneDNN keeps few compiled kernels.
"""

import logging
import os
import sys
from datetime import timedelta
from typing import Literal, NoReturn

import torch
import torch.distributed as dist
from torch.distributed import HashStore, PrefixStore, Store

from distributed.learners.connections import allow_all_descriptors
from distributed.learners.environment import (
    LaunchError,
    Meeting,
    Place,
    bound_kernels,
    meeting,
    prepare_for_groups,
    stay_on_this_host,
)
from distributed.learners.secret import shared_secret
from distributed.learners.store import meet
from distributed.learners.watch import Watch
from distributed.learners.world import World


def start(
    place: Place,
    *,
    join_seconds: float,
    timeout_seconds: float,
    patience_seconds: float | None,
    device: Literal["auto", "cpu", "cuda"],
    threads: int,
) -> World:
    """Join the other learners.

    Args:
        join_seconds: by when all must have come and be connected, counted from the start of learner 0; the others wait
            as long for learner 0.
        timeout_seconds: how long a learner waits for the others in every later exchange.
        patience_seconds: after how long without a sign of life another learner is given up; None: not before
            an exchange with it fails.
        device: ``auto`` takes the GPUs where there are any.
        threads: of torch's operators in this process.

    Raises:
        LaunchError: this host has fewer GPUs than learners, or the launcher says too little.
        JoinError: the learners have not met in time, and who is missing.
    """
    chosen = chosen_device(place, device)
    torch.set_num_threads(threads)
    bound_kernels()
    if place.one_host:
        stay_on_this_host()
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    prepare_for_groups()
    allow_all_descriptors()
    timeout = timedelta(seconds=timeout_seconds)
    if place.size == 1:
        _make_group(place, chosen, HashStore(), timeout)
        return World(place.rank, place.size, place.local_rank, place.local_size, chosen, dist.group.WORLD)
    watch = Watch(place, join_seconds=join_seconds, grace_seconds=timeout_seconds)
    try:
        with watch.joining():
            _join(
                place, meeting(), watch, join_seconds if patience_seconds is None else patience_seconds, timeout, chosen
            )
    except BaseException:
        watch.close()
        raise
    if patience_seconds is None:
        watch.close()
    kept = None if patience_seconds is None else watch
    own = (place.rank, place.size, place.local_rank, place.local_size, chosen, dist.group.WORLD)
    return World(*own, watch=kept, gate=watch.gate)


def _join(
    place: Place, where: Meeting, watch: Watch, patience_seconds: float, timeout: timedelta, device: torch.device
) -> None:
    """Meet, and make the group of all learners."""
    with watch.connections.recording():  # a learner may wait for the store as well, whose host can be lost
        store = meet(place, where, watch.join_seconds)
    watch.start(store=store, master=where.address, secret=shared_secret(), patience_seconds=patience_seconds)
    store.set_timeout(timeout)
    with watch.connections.recording():
        # Where a launcher starts all learners again, its store still holds the addresses of those before.
        _make_group(place, device, PrefixStore(f"launch-{watch.launch_id}", store), timeout)
    watch.liveness.joined()
    if device.type == "cpu":  # NCCL makes connections when it is first used
        watch.connections.close_doors()


def _make_group(place: Place, device: torch.device, store: Store, timeout: timedelta) -> None:
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=place.rank,
        world_size=place.size,
        timeout=timeout,
    )


def stop(world: World) -> None:
    """Leave the group; safe to call twice and after an error."""
    if world.watch is not None:
        world.watch.close()
        if world.watch.liveness.loss is not None:
            return  # what is left of the group could wait for the lost learner
        world.watch.groups.clear()
    if world.group is not None and dist.is_initialized():
        dist.destroy_process_group()


def leave(status: int) -> NoReturn:
    """End a learner that has done what it could, with everything written, but without the interpreter's teardown.

    There gloo's threads were seen (once in some hundred runs) to be destroyed while they still ran, which aborts the
    process after its last line and makes the launcher report a failure.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def chosen_device(place: Place, device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device that a process computes on; ``auto`` is its own GPU where there are any.

    Raises:
        LaunchError: this host has fewer GPUs than learners.
    """
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if device == "cpu" or (device == "auto" and gpus == 0):
        return torch.device("cpu")
    if gpus < place.local_size:
        raise LaunchError(
            f"{place.local_size} learners on this host but {gpus} GPUs; "
            f"start torchrun with --nproc-per-node {max(gpus, 1)} or use launch.device=cpu"
        )
    return torch.device("cuda", place.local_rank)
