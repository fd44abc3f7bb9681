"""The bench of checkpoints: what it makes of times, and that what it measures is a checkpoint."""

from scripts.bench.checkpoint import AT_ONCE, BACKGROUND, NONE, Turn, rows_of, tables


def turns(load: float) -> list[Turn]:
    """A round in which the machine is ``load`` times slower."""
    return [
        Turn(NONE, 0.0, [1.0 * load, 2.0 * load], [False, False], 0.0),
        Turn(BACKGROUND, 0.5 * load, [1.5 * load, 2.0 * load], [True, False], 0.0),
        Turn(AT_ONCE, 2.0 * load, [1.0 * load, 2.0 * load], [False, False], 0.1 * load),
    ]


def test_ratios_are_those_of_turns_side_by_side() -> None:
    """The load of one round does not show in them."""
    plain, background, at_once = rows_of(2, [*turns(1.0), *turns(5.0), *turns(1.0)])
    assert plain["turn_ratio"] == 1.0
    assert plain["step_ratio_beside"] is None
    assert background["turn_ratio"] == 4.0 / 3.0
    assert background["step_ratio_beside"] == 1.5, "of the first step alone, beside which it was written"
    assert background["added_milliseconds"] == 1000.0
    assert (at_once["save_milliseconds"], at_once["steps_beside"]) == (2000.0, 0)
    size = {"learners": 2, "backend": "dpsgd", "bytes": 3_000_000, "bytes_each_its_own": 4_000_000}
    lines = tables([plain, background, at_once], [size]).splitlines()
    assert "| 2 | background | 500 ms | 1000 ms | 1 | 1.500 |" in lines
    assert lines[-1] == "| 2 | `dpsgd` | 3.0 | 4.0 |"
