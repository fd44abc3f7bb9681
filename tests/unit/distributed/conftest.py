"""Every scheme with small settings, alone and by what schemes have in common; a model with buffers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from distributed.backend import Backend
from distributed.learners.launch import World
from distributed.schemes.adpsgd import AsynchronousGossip
from distributed.schemes.allreduce import AllReduce
from distributed.schemes.delay_by_one import DelayByOne
from distributed.schemes.dpsgd import DecentralisedSgd
from distributed.schemes.half_allreduce import HalfAllReduce
from distributed.schemes.hierarchical import Hierarchical
from distributed.schemes.local_topk import LocalTopK
from distributed.schemes.powersgd import PowerSgd
from distributed.schemes.random_k import RandomK
from distributed.schemes.scalecom import ScaleCom
from distributed.schemes.single import Single
from distributed.schemes.ssgd_noise import NoisyAllReduce


def hierarchical(world: World) -> Hierarchical:
    """Groups of two where their number is even, else of one."""
    size = 1 if world.size % 2 else 2
    return Hierarchical(group_size=size, topology="ring", seed=1, mix_moments=False, bucket_mb=1, world=world)


SPARSE = {"rate": 8, "rates": [], "values": "full", "beta": 1.0, "warmup_steps": 0}
BUILDERS: Mapping[str, Callable[..., Backend]] = {
    "single": lambda world: Single(world=world),
    "allreduce": lambda world: AllReduce(bucket_mb=1, world=world),
    "ssgd_noise": lambda world: NoisyAllReduce(sigma=0.1, seed=1, bucket_mb=1, world=world),
    "scalecom": lambda world: ScaleCom(**SPARSE, overlap=False, bucket_mb=1, world=world),
    "local_topk": lambda world: LocalTopK(**SPARSE, world=world),
    "random_k": lambda world: RandomK(**SPARSE, seed=1, world=world),
    "powersgd": lambda world: PowerSgd(rank=2, min_rate=1.0, warmup_steps=0, seed=1, world=world),
    "half_allreduce": lambda world: HalfAllReduce(dtype="bfloat16", world=world),
    "dpsgd": lambda world, mix_moments=False: DecentralisedSgd(
        topology="ring", seed=1, mix_moments=mix_moments, world=world
    ),
    "delay_by_one": lambda world: DelayByOne(mix_moments=False, world=world),
    "hierarchical": hierarchical,
    "adpsgd": lambda world, mix_moments=False: AsynchronousGossip(
        topology="ring", rounds_per_step=1.0, max_staleness=4, mix_moments=mix_moments, seed=1, world=world
    ),
}
COMPRESSED = ("scalecom", "local_topk", "random_k", "powersgd", "half_allreduce")
SYNCHRONOUS = ("allreduce", "ssgd_noise", *COMPRESSED)
LOCKSTEP_GOSSIP = ("dpsgd", "delay_by_one", "hierarchical")
GOSSIP = (*LOCKSTEP_GOSSIP, "adpsgd")


@dataclass(frozen=True)
class Scheme:
    """What builds its backend, as ``build(world)``."""

    name: str
    build: Callable[..., Backend]

    @property
    def synchronous(self) -> bool:
        """Whether several learners hold the same weights."""
        return self.name in SYNCHRONOUS

    @property
    def gossip(self) -> bool:
        """Whether every learner has weights of its own."""
        return self.name in GOSSIP


SCHEMES = {name: Scheme(name, build) for name, build in BUILDERS.items()}


@pytest.fixture
def schemes() -> Mapping[str, Scheme]:
    """All of them by name."""
    return SCHEMES


@pytest.fixture(params=SCHEMES)
def every_scheme(request: pytest.FixtureRequest) -> Scheme:
    """Each in turn, also that of a lone learner."""
    return SCHEMES[request.param]


@pytest.fixture(params=SYNCHRONOUS + GOSSIP)
def scheme(request: pytest.FixtureRequest) -> Scheme:
    """Each that several learners can run."""
    return SCHEMES[request.param]


@pytest.fixture(params=SYNCHRONOUS)
def synchronous(request: pytest.FixtureRequest) -> Scheme:
    """Each in which several learners hold the same weights."""
    return SCHEMES[request.param]


@pytest.fixture(params=GOSSIP)
def gossip(request: pytest.FixtureRequest) -> Scheme:
    """Each in which every learner has weights of its own."""
    return SCHEMES[request.param]


@pytest.fixture(params=SYNCHRONOUS + LOCKSTEP_GOSSIP)
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
