"""Learners of a benchmark: real processes with a rendezvous of their own, on this host."""

import os
import queue
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as multiprocessing

from distributed import launch
from distributed.launch import World

TIMEOUT_SECONDS = 600.0


def run_learners(size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """``work(world, *arguments)`` of each of ``size`` learners, by rank; results must be picklable.

    Raises:
        RuntimeError: a learner failed; the message holds its traceback.
    """
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    port = _free_port()
    learners = [
        context.Process(target=_learn, args=(rank, size, port, results, work, arguments)) for rank in range(size)
    ]
    for learner in learners:
        learner.start()
    try:
        return _collect(results, size, learners)
    finally:
        for learner in learners:
            learner.kill()
            learner.join()


def _collect(results: Any, size: int, learners: list[Any]) -> list[Any]:
    found: dict[int, Any] = {}
    while len(found) < size:
        try:
            rank, result, error = results.get(timeout=1.0)
        except queue.Empty:
            dead = [rank for rank, each in enumerate(learners) if rank not in found and not each.is_alive()]
            if dead:
                raise RuntimeError(f"learners {dead} ended without a result") from None
            continue
        if error is not None:
            raise RuntimeError(f"learner {rank} failed:\n{error}")
        found[rank] = result
    return [found[rank] for rank in range(size)]


def _learn(rank: int, size: int, port: int, results: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
    try:
        world: World = launch.start(launch.place(), timeout_seconds=TIMEOUT_SECONDS, device="cpu", threads=1)
        results.put((rank, work(world, *arguments), None))
        world.barrier()  # learner 0 holds the rendezvous
    except Exception:
        results.put((rank, None, traceback.format_exc()))
    results.close()
    results.join_thread()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads were seen to abort an orderly end


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
