"""The values of a sweep: read from Hydra's syntax, combined to a grid, drawn."""

import math
from collections.abc import Sequence

import pytest

from distributed.errors import UsageError
from scripts.composition.compose import options
from scripts.composition.sweeps.sampling import chosen_sampler, number_of_trials, proposed
from scripts.composition.sweeps.space import Interval, Listed, Space, read_space


def space_of(*overrides: str) -> Space:
    return read_space(overrides, options)


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("optimizer.lr=0.1,0.2", ["0.1", "0.2"]),
        ("seed=range(1,4)", ["1", "2", "3"]),
        ("optimizer=choice(sgd,adamw)", ["sgd", "adamw"]),
        ("hooks=[],[spec_augment]", ["[]", "[spec_augment]"]),
        ("optimizer=glob(l*)", ["lamb", "lars"]),
        ("trainer.max_norm=null,5", ["null", "5"]),
    ],
)
def test_lists_of_values(override: str, values: Sequence[str]) -> None:
    space = space_of("experiment=demo", override)
    assert space.fixed == ["experiment=demo"]
    assert space.axes == [Listed(override.split("=")[0], values)]


@pytest.mark.parametrize(
    ("override", "axis"),
    [
        ("optimizer.lr=interval(1e-4,1e-2)", Interval("optimizer.lr", 1e-4, 1e-2, whole=False, log=False)),
        ("optimizer.lr=tag(log,interval(1e-4,1e-2))", Interval("optimizer.lr", 1e-4, 1e-2, whole=False, log=True)),
        ("batch.unit_utterances=int(interval(1,8))", Interval("batch.unit_utterances", 1, 8, whole=True, log=False)),
    ],
)
def test_intervals(override: str, axis: Interval) -> None:
    assert space_of(override).axes == [axis]


def test_a_grid_has_every_combination_once_and_the_last_key_changes_first() -> None:
    space = space_of("backend=allreduce,dpsgd", "seed=1,2,3", "experiment=demo")
    trials = [space.overrides(values) for values in space.grid()]
    assert len(trials) == space.size == 6
    assert trials[:2] == [
        ["experiment=demo", "backend=allreduce", "seed=1"],
        ["experiment=demo", "backend=allreduce", "seed=2"],
    ]
    assert len(set(map(tuple, trials))) == 6
    assert [proposed(space, "grid", 1, number, []) for number in range(6)] == list(space.grid())


def test_every_value_is_checked_before_a_sweep_starts() -> None:
    space = space_of("backend=allreduce,dpsgd", "seed=1,2,3", "optimizer.lr=interval(0.1,0.2)")
    tried = list(space.each_value_once())
    assert len(tried) == 3
    assert {values["seed"] for values in tried} == {"1", "2", "3"}
    assert {values["backend"] for values in tried} == {"allreduce", "dpsgd"}
    assert {values["optimizer.lr"] for values in tried} == {0.1, 0.2}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=demo"], "nothing to try: give a key several values"),
        (["seed=1,2", "seed=3"], "seed is set twice"),
        (["seed=1,1"], "a value is given twice"),
        (["seed=shuffle(1,2)"], "leave shuffle out"),
        (["optimizer.lr=interval(2,1)"], "the second number must be above the first"),
        (["optimizer.lr=tag(log,interval(0,1))"], "both above 0"),
        (["optimizer=glob(zz*)"], "no value fits"),
    ],
)
def test_what_cannot_be_tried_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        space_of(*overrides)


def test_a_sweep_has_as_many_trials_as_its_sampler_can_make() -> None:
    grid, interval = space_of("seed=1,2"), space_of("seed=1,2", "optimizer.lr=interval(0.1,0.2)")
    assert (chosen_sampler("auto", grid), chosen_sampler("auto", interval)) == ("grid", "tpe")
    assert number_of_trials(None, "grid", grid) == 2
    assert number_of_trials(1, "grid", grid) == 1
    for trials, sampler, space, message in (
        (3, "grid", grid, "trials=3: the grid has 2 combinations"),
        (None, "tpe", interval, "sampler=tpe needs a number of trials"),
        (None, "grid", interval, r"optimizer.lr=interval\(...\) has no end of values"),
    ):
        with pytest.raises(UsageError, match=message):
            number_of_trials(trials, sampler, space)


MIXED = (
    "optimizer.lr=tag(log,interval(1e-4,1))",
    "batch.unit_utterances=int(interval(1,8))",
    "backend=allreduce,dpsgd",
)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_trial_depends_on_the_seed_its_number_and_what_was_seen(sampler: str) -> None:
    """So that a sweep that goes on makes the same trials as one that was never interrupted."""
    pytest.importorskip("optuna")
    space = space_of(*MIXED)
    seen = [(proposed(space, "random", 7, number, []), float(number)) for number in range(12)]
    first = [proposed(space, sampler, 1, number, seen) for number in range(3)]
    assert first == [proposed(space, sampler, 1, number, seen) for number in range(3)]
    assert first != [proposed(space, sampler, 2, number, seen) for number in range(3)]
    assert len({tuple(values.values()) for values in first}) == 3
    for values in first:
        assert list(values) == ["optimizer.lr", "batch.unit_utterances", "backend"]
        assert 1e-4 <= values["optimizer.lr"] <= 1
        assert values["batch.unit_utterances"] in range(1, 9)
        assert values["backend"] in ("allreduce", "dpsgd")


def test_a_logarithmic_interval_is_drawn_evenly_by_ratio() -> None:
    pytest.importorskip("optuna")
    space = space_of(MIXED[0])
    logs = [math.log10(proposed(space, "random", 1, number, [])["optimizer.lr"]) for number in range(60)]
    assert 20 <= sum(each < -2 for each in logs) <= 40, "half of them lie in the lower half of the exponents"


def test_tpe_looks_where_trials_were_good() -> None:
    """On (log10 lr + 2)^2 its guesses lie nearer to 0.01 than random ones, at the median of 15."""
    pytest.importorskip("optuna")
    space = space_of(MIXED[0])

    def figure(values: dict[str, float]) -> float:
        return (math.log10(values["optimizer.lr"]) + 2) ** 2

    random = [proposed(space, "random", 1, number, []) for number in range(40)]
    seen = [(values, figure(values)) for values in random[:25]]
    guesses = sorted(figure(proposed(space, "tpe", 1, number, seen)) for number in range(25, 40))
    assert guesses[7] < sorted(map(figure, random[25:]))[7] / 2
