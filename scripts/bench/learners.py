"""Learners of a benchmark: real processes on this host, started as torchrun starts them."""

import uuid
from collections.abc import Callable
from typing import Any

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from distributed import launch
from distributed.launch import World

TIMEOUT_SECONDS = 600.0


def run_learners(size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """``work(world, *arguments)`` of each of ``size`` learners, by rank; ``work`` and its results must be picklable.

    Raises:
        ChildFailedError: a learner failed; its traceback is on the terminal.
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
        start_method="spawn",
        monitor_interval=0.1,
    )
    results: dict[int, Any] = elastic_launch(config, _learn)(work, *arguments)
    return [results[rank] for rank in range(size)]


def _learn(work: Callable[..., Any], *arguments: Any) -> Any:
    world: World = launch.start(
        launch.place(), timeout_seconds=TIMEOUT_SECONDS, patience_seconds=None, device="cpu", threads=1
    )
    try:
        return work(world, *arguments)
    finally:
        launch.stop(world)
