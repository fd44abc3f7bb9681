"""Every word of ``backend=`` once, with what is expected of it: the table that all suites filter.

A backend is a file of distributed/schemes, a YAML of conf/backend and a line of ``SCHEMES``. The line says what the class is
held to; tests/unit/distributed/test_scheme_table.py compares the two.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Literal

import pytest

from distributed.backend import Backend
from distributed.learners.world import World
from scripts.composition.backends import build_backend, settings_of

Family = Literal["alone", "average", "compressed", "gossip"]
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Scheme:
    """What the tests know of one word."""

    word: str
    family: Family  # one learner | averages of gradients: whole, or compressed | every learner with weights of its own
    settings: Settings = field(default_factory=dict)  # of small models, instead of what its YAML says
    exact: Settings | None = field(
        default_factory=dict
    )  # those in which a lone learner takes steps of SGD; None: there are none
    lockstep: bool = True  # a step of one learner is a step of all
    remembers: bool = False  # what is not sent is kept, and sent later
    groups: Callable[[int], int] = lambda _: 1  # size of the groups with equal weights, of so many learners
    learners: int = 3  # in tests of several, the fewest with which it does all that it can do

    @property
    def several(self) -> bool:
        """Whether it is for several learners."""
        return self.family != "alone"

    @property
    def synchronous(self) -> bool:
        """Whether all learners hold the same weights and take the same steps."""
        return self.family != "gossip"

    @property
    def gossip(self) -> bool:
        """Whether every learner, or group, has weights of its own."""
        return self.family == "gossip"

    @property
    def compresses(self) -> bool:
        """Whether gradients travel in fewer bytes than they have."""
        return self.family == "compressed"

    @property
    def communicates_every_step(self) -> bool:
        """Whether each step sends something, once."""
        return self.several and self.lockstep

    @cached_property
    def keys(self) -> Settings:
        """What its YAML says, of seed 1."""
        return settings_of(self.word)

    def settings_of(self, learners: int) -> Settings:
        """Its settings for so many learners, where they differ from its YAML."""
        return self.settings | ({"group_size": self.groups(learners)} if "group_size" in self.keys else {})

    def different_weights(self, learners: int) -> int:
        """How many weights so many learners hold."""
        return 1 if self.synchronous else learners // self.groups(learners)

    def build(self, world: World, **changes: Any) -> Backend:
        """The backend on a learner; ``changes`` are of those keys that it has, so that one call suits several words."""
        assert changes.keys() <= every_key(), f"no backend has {changes.keys() - every_key()}"
        changed = {key: value for key, value in changes.items() if key in self.keys}
        backend = build_backend(self.word, world, **self.settings_of(world.size) | changed)
        assert isinstance(backend, Backend)
        return backend

    def overrides(self, learners: int, **changes: Any) -> list[str]:
        """The same as overrides of a run's configuration."""
        changed = {key: value for key, value in changes.items() if key in self.keys}
        return [f"backend={self.word}"] + [
            f"backend.{k}={v}" for k, v in (self.settings_of(learners) | changed).items()
        ]


SCHEMES: Mapping[str, Scheme] = {
    each.word: each
    for each in (
        Scheme("single", "alone"),
        Scheme("allreduce", "average"),
        Scheme("ssgd_noise", "average", exact={"sigma": 0.0}),
        Scheme("half_allreduce", "compressed", exact=None),
        Scheme("scalecom", "compressed", {"rate": 8}, {"rate": 1}, remembers=True),
        Scheme("local_topk", "compressed", {"rate": 8}, {"rate": 1}, remembers=True),
        Scheme("random_k", "compressed", {"rate": 8}, {"rate": 1}, remembers=True),
        Scheme("powersgd", "compressed", {"rank": 2, "min_rate": 1.0}, {"rank": 99}, remembers=True),
        Scheme("dpsgd", "gossip"),
        Scheme("delay_by_one", "gossip"),
        Scheme("hierarchical", "gossip", groups=lambda learners: 1 if learners % 4 else 2, learners=4),
        Scheme("adpsgd", "gossip", {"max_staleness": 4}, lockstep=False),
        Scheme(
            "hierarchical_adpsgd",
            "gossip",
            {"max_staleness": 4},
            lockstep=False,
            groups=lambda learners: 1 if learners % 4 else 2,
            learners=4,
        ),
    )
}


@cache
def every_key() -> frozenset[str]:
    """The keys of all backends; composed when a test asks for them, and not wherever this file is imported."""
    return frozenset(key for each in SCHEMES.values() for key in each.keys)


OFTEN = ("allreduce", "scalecom", "powersgd", "dpsgd", "delay_by_one", "adpsgd")  # one of each way to treat a parameter


def long_unless_often(every: Iterable[str]) -> list[Any]:
    """The words as parameters of a test; those that only show the law of ``OFTEN`` again are for the long tests."""
    return [pytest.param(word, marks=() if word in OFTEN else pytest.mark.long) for word in every]


def words(condition: Callable[[Scheme], bool]) -> list[str]:
    """The words of the schemes that meet a condition."""
    return [word for word, scheme in SCHEMES.items() if condition(scheme)]
