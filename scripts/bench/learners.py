"""Learners of a benchmark: real processes on this host, started as torchrun starts them."""

import os
import uuid
from collections.abc import Callable
from typing import Any, Literal

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from distributed.learners import launch
from distributed.learners.environment import place
from distributed.learners.world import World

TIMEOUT_SECONDS = 600.0


def run_learners(size: int, work: Callable[..., Any], *arguments: Any, pinned: bool = False) -> list[Any]:
    """Run ``work(world, *arguments)`` on ``size`` learners; results are by rank and, like ``work``, must be picklable.

    Args:
        pinned: each learner, with all its threads, keeps to a core of its own, of which there must be enough (Linux).

    Raises:
        ChildFailedError: a learner failed; its traceback is on the terminal.
    """
    return launched(size, _learn, pinned, work, *arguments)


def launched(
    size: int, work: Callable[..., Any], *arguments: Any, start_method: Literal["spawn", "forkserver"] = "spawn"
) -> list[Any]:
    """Run ``work(*arguments)`` in ``size`` processes that have yet to join each other; otherwise as ``run_learners``.

    Those of a fork server share what it has imported, and start in no time: for many learners.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=size,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        start_method=start_method,
        monitor_interval=0.1,
    )
    results: dict[int, Any] = elastic_launch(config, work)(*arguments)
    return [results[rank] for rank in range(size)]


def _learn(pinned: bool, work: Callable[..., Any], *arguments: Any) -> Any:
    here = place()
    if pinned:
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < here.local_size:
            raise ValueError(f"{here.local_size} learners want a core each, but this process may use {len(cores)}")
        os.sched_setaffinity(0, {cores[here.local_rank]})  # before there are threads, which inherit it
    world: World = launch.start(
        here,
        join_seconds=TIMEOUT_SECONDS,
        timeout_seconds=TIMEOUT_SECONDS,
        patience_seconds=None,
        device="cpu",
        threads=1,
    )
    try:
        return work(world, *arguments)
    finally:
        launch.stop(world)
