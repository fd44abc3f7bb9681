"""Units that were lost, or processed twice, end the run where learners meet."""

from typing import Any

import pytest

from asr.training.accounting import Accounting, LostUnitsError
from distributed.learners.world import World


@pytest.mark.parametrize("processed", [(3, 1), (2, 2), (0, 4)])
def test_any_division_of_the_planned_units_is_right(run_learners: Any, processed: tuple[int, int]) -> None:
    def learn(world: World) -> None:
        accounting = Accounting(world)
        for _ in range(3):
            accounting.processed(processed[world.rank])
            accounting.planned(4)
            accounting.check(7)

    run_learners(2, learn)


@pytest.mark.parametrize("processed", [(3, 0), (4, 1)])
def test_a_unit_more_or_less_ends_the_run_on_all(run_learners: Any, processed: tuple[int, int]) -> None:
    def learn(world: World) -> str:
        accounting = Accounting(world)
        accounting.processed(processed[world.rank])
        accounting.planned(4)
        with pytest.raises(LostUnitsError) as raised:
            accounting.check(7)
        return str(raised.value)

    first, second = run_learners(2, learn)
    assert first == second
    assert f"at step 7 learners have processed {sum(processed)} units since the last mark, but the plan has 4" in first
