"""Which values a trial tries: a pure function of the space, the seed, its number and what earlier trials have shown.

So a sweep that was interrupted goes on as if it had not been. TPE (Bergstra et al. 2011, "Algorithms for
hyper-parameter optimization") and random draws are optuna's.
"""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from distributed.errors import UsageError
from distributed.keyed import keyed_seed
from scripts.composition.sweeps.space import Axis, Listed, Space, Value, Values

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Sampler = Literal["grid", "random", "tpe"]
Seen = Sequence[tuple[Values, float]]  # values and figure of trials that have finished


def chosen_sampler(sampler: Literal["auto", "grid", "random", "tpe"], space: Space) -> Sampler:
    """The sampler of a sweep: ``auto`` takes a grid where all values are listed."""
    if sampler == "auto":
        return "grid" if space.is_grid else "tpe"
    return sampler


def number_of_trials(trials: int | None, sampler: Sampler, space: Space) -> int:
    """How many trials are made.

    Raises:
        UsageError: it is not said, or more than a grid has.
    """
    if sampler != "grid":
        if trials is None:
            raise UsageError(f"trials=: sampler={sampler} needs a number of trials, such as trials=20")
        return trials
    if trials is not None and trials > space.size:
        raise UsageError(f"trials={trials}: the grid has {space.size} combinations; trials=null makes all of them")
    return space.size if trials is None else trials


def proposed(space: Space, sampler: Sampler, seed: int, number: int, seen: Seen) -> dict[str, Value]:
    """The values of trial ``number``, counted from 0."""
    if sampler == "grid":
        return next(itertools.islice(space.grid(), number, None))
    try:
        import optuna
    except ModuleNotFoundError:
        raise UsageError(f"sampler={sampler} needs optuna: pip install optuna, or pip install '.[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    own_seed = keyed_seed(seed, "sweep", number) % 2**32
    samplers = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
    study = optuna.create_study(sampler=samplers[sampler](seed=own_seed), direction="minimize")
    distributions = {axis.key: _distribution(axis) for axis in space.axes}
    for values, figure in seen:
        study.add_trial(optuna.trial.create_trial(params=dict(values), distributions=distributions, value=figure))
    return dict(study.ask(distributions).params)


def _distribution(axis: Axis) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(axis, Listed):
        return CategoricalDistribution(list(axis.values))
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)
