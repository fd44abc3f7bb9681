"""Fixtures shared by all tests: learners as threads, and the smallest loop that drives a backend."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import HashStore

from distributed.backend import Backend, GradientReport
from distributed.launch import World, gloo_group

SECONDS = 20  # before a learner that waits gives up


@pytest.fixture
def run_learners(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Run ``function(world)`` on ``size`` learners, each a thread with a gloo group over an in-memory store.

    Returns their results by rank; raises the error of the learner that failed first.
    """
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")

    def run(size: int, function: Callable[[World], Any]) -> list[Any]:
        store, results, errors = HashStore(), [None] * size, []

        def learner(rank: int) -> None:
            torch.set_num_threads(1)
            try:
                group = gloo_group(store, rank, size, SECONDS)
                results[rank] = function(World(rank, size, rank, size, torch.device("cpu"), group))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=learner, args=(rank,), daemon=True) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS + 10)
        if errors:
            raise errors[0]
        assert not any(thread.is_alive() for thread in threads), "a learner hangs"
        return results

    return run


@pytest.fixture
def alone() -> World:
    """The world of one learner that needs no process group."""
    return World(0, 1, 0, 1, torch.device("cpu"), None)


Step = Sequence[tuple[Tensor, Tensor]]  # this learner's units: inputs (B, F) and targets (B, O)


@pytest.fixture
def train_steps() -> Callable[..., Iterator[GradientReport]]:
    """The loop of ``Backend``'s docstring on squared errors: a generator of one report per step."""

    def loop(
        backend: Backend,
        wrapped: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps: Sequence[Step],
        max_norm: float | None,
    ) -> Iterator[GradientReport]:
        for units in steps:
            divisor = backend.begin_step(float(sum(len(x) for x, _ in units)))
            for x, y in units[:-1]:
                with backend.accumulating():
                    ((wrapped(x) - y).square().sum() / divisor).backward()
            x, y = units[-1]
            ((wrapped(x) - y).square().sum() / divisor).backward()
            report = backend.reduce_gradients(max_norm)
            with backend.updating(apply=report.finite):
                if report.finite:
                    optimizer.step()
            backend.zero_grad()
            yield report

    return loop
