"""The two laws of error feedback on the recursion of one coordinate, and the warning of runs that are too short."""

import logging

import pytest
import torch

from distributed.learners.world import World
from distributed.sparse.regime import ENOUGH, payments, stability, stability_limit, too_short
from distributed.values.selection import update_memory
from tests.schemes import SCHEMES


def coordinate(beta: float, rate: int, lr: float, sendings: int) -> list[tuple[float, float]]:
    """Weight and debt m / beta after each sending, of a coordinate of curvature 1 that is sent every ``rate`` steps."""
    weight, memory, found = 1.0, torch.zeros(1, dtype=torch.float64), []
    nothing, all_of_it = torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    for step in range(sendings * rate):
        gradient = torch.full((1,), weight, dtype=torch.float64)
        if (step + 1) % rate:
            update_memory(memory, gradient, nothing, memory.new_zeros(0), beta)
            continue
        weight -= lr * float(memory + gradient)
        update_memory(memory, gradient, all_of_it, memory.new_zeros(1), beta)
        found.append((weight, float(memory) / beta))
    return found


@pytest.mark.parametrize("beta", [1.0, 0.5, 0.3])
def test_a_debt_grows_above_the_limit_and_shrinks_below_it(beta: float) -> None:
    rate, sendings = 100, 120
    limit = stability_limit(beta)
    grown, shrunk = (abs(coordinate(beta, rate, part * limit / rate, sendings)[-1][0]) for part in (1.05, 0.9))
    assert grown > 1.5
    assert shrunk < 0.1
    at_limit = stability(lr=0.1 * limit / rate, momentum=0.9, curvature=1.0, rate=rate, beta=beta)
    assert at_limit == pytest.approx(1)  # momentum 0.9 makes ten times of the learning rate


@pytest.mark.parametrize("beta", [0.5, 0.1])
def test_a_sending_damps_by_the_root_of_one_less_beta(beta: float) -> None:
    """At a rate of learning in the middle of the range, where the recursion oscillates."""
    rate, sendings = 50, 40
    found = coordinate(beta, rate, 2 / rate, sendings)
    norm = [max(abs(weight) for weight, _ in found[place : place + 10]) for place in (0, sendings - 10)]
    assert (norm[1] / norm[0]) ** (1 / (sendings - 10)) == pytest.approx((1 - beta) ** 0.5, rel=0.02)


def test_payments_are_steps_times_beta_over_rate() -> None:
    assert payments(1000, 100, 0.1) == pytest.approx(1)
    assert too_short(5000, 100, 0.1) is None
    assert payments(5000, 100, 0.1) == pytest.approx(ENOUGH)
    warning = too_short(1000, 400, 0.1)
    assert warning is not None
    assert "0.25 times" in warning
    assert "train 20000 steps" in warning


@pytest.mark.parametrize(("steps", "warned"), [(100, False), (300, True), (700, False)])
def test_compressed_steps_of_a_whole_run_are_counted_once(
    alone: World, caplog: pytest.LogCaptureFixture, steps: int, warned: bool
) -> None:
    backend = SCHEMES["scalecom"].build(alone, rate=100, beta=1.0, warmup_steps=100)
    with caplog.at_level(logging.WARNING):
        backend.check_steps(steps)
    assert bool(caplog.records) == warned
