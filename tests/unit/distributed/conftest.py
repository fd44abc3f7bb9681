"""Schemes with small settings, alone and by what they have in common; a model with buffers."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from tests.schemes import SCHEMES, Scheme, words


@pytest.fixture
def schemes() -> Mapping[str, Scheme]:
    """All of them by name."""
    return SCHEMES


@pytest.fixture(params=SCHEMES)
def every_scheme(request: pytest.FixtureRequest) -> Scheme:
    """Each in turn, also that of a lone learner."""
    return SCHEMES[request.param]


@pytest.fixture(params=words(lambda each: each.several))
def scheme(request: pytest.FixtureRequest) -> Scheme:
    """Each that several learners can run."""
    return SCHEMES[request.param]


@pytest.fixture(params=words(lambda each: each.several and each.synchronous))
def synchronous(request: pytest.FixtureRequest) -> Scheme:
    """Each in which several learners hold the same weights."""
    return SCHEMES[request.param]


@pytest.fixture(params=words(lambda each: each.gossip))
def gossip(request: pytest.FixtureRequest) -> Scheme:
    """Each in which every learner has weights of its own."""
    return SCHEMES[request.param]


@pytest.fixture(params=words(lambda each: each.communicates_every_step))
def lockstep(request: pytest.FixtureRequest) -> Scheme:
    """Each of several learners in which a step of one is a step of all."""
    return SCHEMES[request.param]


class Normalised(nn.Sequential):
    """A model with floating and integer buffers."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        self[1].running_mean.fill_(float(seed))
        self[1].num_batches_tracked.fill_(seed)

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of weights and buffers."""
        return {name: tensor.clone() for name, tensor in self.state_dict().items()}

    def holds(self, snapshot: Mapping[str, Tensor]) -> bool:
        """Whether weights and buffers are bitwise those."""
        return all(torch.equal(tensor, snapshot[name]) for name, tensor in self.state_dict().items())


@pytest.fixture
def normalised() -> Callable[[int], Normalised]:
    """``normalised(seed)``: a model with buffers, ``snapshot()`` and ``holds(snapshot)``."""
    return Normalised
