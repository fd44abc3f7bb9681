"""How long learners compute: distributions of the seconds of one unit, a pure function of learner and unit.

Both simulators draw from them, by keys, so that a draw does not depend on what else happens.
"""

import math
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass

from distributed.keyed import keyed_seed


class Pace(ABC):
    """The computation of units."""

    @abstractmethod
    def seconds(self, learner: int, unit: int) -> float:
        """Seconds of computation of a learner's ``unit``-th own unit, from 0 on."""


@dataclass(frozen=True, slots=True)
class Constant(Pace):
    """Always the same."""

    unit_seconds: float

    def seconds(self, learner: int, unit: int) -> float:
        return self.unit_seconds


@dataclass(frozen=True, slots=True)
class LogNormal(Pace):
    """Lognormal with mean ``unit_seconds``; ``spread`` is the standard deviation of its logarithm."""

    unit_seconds: float
    spread: float
    seed: int

    def seconds(self, learner: int, unit: int) -> float:
        draw = random.Random(keyed_seed(self.seed, "pace", learner, unit)).gauss()
        return self.unit_seconds * math.exp(self.spread * draw - self.spread**2 / 2)


@dataclass(frozen=True, slots=True)
class Straggler(Pace):
    """One learner takes ``factor`` times as long as ``pace`` says."""

    pace: Pace
    factor: float
    learner: int = 0

    def seconds(self, learner: int, unit: int) -> float:
        return self.pace.seconds(learner, unit) * (self.factor if learner == self.learner else 1.0)


@dataclass(frozen=True, slots=True)
class Beside(Pace):
    """What a step takes beside its unit, whoever is slow."""

    pace: Pace
    added_seconds: float

    def seconds(self, learner: int, unit: int) -> float:
        return self.pace.seconds(learner, unit) + self.added_seconds
