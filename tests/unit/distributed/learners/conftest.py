"""Learners that watch each other, closed after each test."""

from collections.abc import Iterator
from contextlib import suppress

import pytest

from distributed.learners.liveness import Liveness
from tests.unit.distributed.learners.watching import PATIENCE, Group, centre_of, member


@pytest.fixture
def group() -> Iterator[Group]:
    """Learners that watch each other, learner 0 first."""
    made: list[Liveness] = []

    def make(size: int, patience: float = PATIENCE, awaited: int = 0) -> list[Liveness]:
        centre = centre_of(awaited or size, patience=patience)
        made.append(centre)
        for rank in range(1, size):
            made.append(member(centre, rank, patience))
        for each in made:
            each.start()
        return list(made)

    yield make
    for each in reversed(made):
        with suppress(RuntimeError):
            each.close()
