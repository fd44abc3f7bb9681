"""The bench of hooks: what it makes of times, and that every hook that acts on steps is measured."""

import pytest

from scripts.bench.hooks import HOOKS, NONE, Times, rows_of, table
from scripts.composition.compose import options

WATCHING = {"diagnostics", "quantization_health", "selection_diagnostics"}  # at evaluations alone
OTHERS = {"pruned_warmup"}  # sets two numbers


def test_ratios_are_those_of_steps_side_by_side() -> None:
    """The machine was three times slower in the last two rounds: the median of ratios does not see it."""
    times = {
        NONE: Times(load=[1.0, 1.0, 3.0, 3.0], step=[1.0, 1.0, 3.0, 3.0]),
        "a": Times(load=[2.0, 2.0, 6.0, 6.0], step=[1.0, 1.0, 3.0, 3.0]),
    }
    plain, hooked = rows_of(times)
    assert plain["step_ratio"] == 1.0
    assert hooked == {"hook": "a", "load_milliseconds": 4000.0, "step_milliseconds": 2000.0, "step_ratio": 1.5}
    assert table([plain, hooked]).splitlines()[-1] == "| `a` | 4000.0 ms | 2000.0 ms | 1.500 |"


@pytest.mark.parametrize("hook", options("hooks"))
def test_every_hook_that_costs_time_in_steps_is_measured(hook: str) -> None:
    assert (hook in HOOKS) != (hook in WATCHING | OTHERS)
