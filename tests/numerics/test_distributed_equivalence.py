"""Which schemes must give the same numbers: all-reduce and one learner, gossip and all-reduce where mixing is complete."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from distributed.backend import Backend
from distributed.gossip.lockstep import LockstepMixing
from distributed.gossip.topology import make_topology
from distributed.learners.world import World
from distributed.schemes.allreduce import AllReduce
from distributed.schemes.dpsgd import DecentralisedSgd
from distributed.schemes.single import Single
from tests.schemes import SCHEMES, words


def gossip(world: World, topology: str = "ring") -> DecentralisedSgd:
    """DPSGD on a topology."""
    return SCHEMES["dpsgd"].build(world, topology=topology)


def exact(word: str, world: World) -> Backend:
    """The scheme with the settings in which a lone learner takes steps of SGD."""
    scheme = SCHEMES[word]
    assert scheme.exact is not None
    return scheme.build(world, beta=0.5, **scheme.exact)


MIXED = ["ring", "random_ring", "random_pairwise", "exponential", "complete", "delay_by_one"]


def mixing(name: str, world: World) -> LockstepMixing:
    """DPSGD on the topology, or delay-by-one."""
    return SCHEMES["delay_by_one"].build(world) if name == "delay_by_one" else gossip(world, name)


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float) -> None:
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("max_norm", [None, 0.05])
def test_allreduce_equals_one_learner_with_the_same_global_batch(run_learners, laboratory, size: int, max_norm):
    """Units of unequal weight; with fewer learners the rest is accumulation (12 units for 1, 2, 3 or 4)."""
    steps = laboratory.global_steps([1, 3, 2, 5, 1, 4, 2, 2, 6, 1, 3, 1], steps=4)
    alone = Single(world=World(0, 1, 0, 1, torch.device("cpu"), None))
    expected_reports, expected = laboratory.train(alone, steps, max_norm, torch.optim.AdamW)

    def learner(world: World):
        mine = [units[world.rank :: world.size] for units in steps]
        backend = AllReduce(bucket_mb=0.001, world=world)  # several buckets
        return laboratory.train(backend, mine, max_norm, torch.optim.AdamW)

    for reports, weights in run_learners(size, learner):
        assert_same(weights, expected, 1e-9)
        for report, reference in zip(reports, expected_reports, strict=True):
            assert report.norm == pytest.approx(reference.norm, rel=1e-9)
            assert report.clipped == reference.clipped == (max_norm is not None)


@pytest.mark.parametrize("scheme", words(lambda each: each.exact is not None))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alone_every_scheme_is_plain_sgd_bitwise(run_learners, laboratory, scheme: str, dtype: torch.dtype):
    steps = laboratory.global_steps([2, 3], steps=5, dtype=dtype)
    model, reference = laboratory.network(dtype), laboratory.network(dtype)
    ((_, weights),) = run_learners(1, lambda world: laboratory.train(exact(scheme, world), steps, model=model))
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    for units in steps:
        for x, y in units:
            ((reference(x) - y).square().sum() / 5.0).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(weights[name], value) for name, value in reference.state_dict().items())


@pytest.mark.parametrize("scheme", words(lambda each: each.gossip and each.lockstep))
def test_mean_of_gossip_after_one_step_is_allreduce_s_weights(run_learners, laboratory, scheme: str):
    """From equal weights mixing changes nothing, and the mean takes the mean gradient."""
    steps = laboratory.global_steps([2, 5, 3, 1], steps=1)

    def learner(world: World):
        mine = [units[world.rank :: world.size] for units in steps]
        _, synchronous = laboratory.train(AllReduce(bucket_mb=25, world=world), mine)
        _, mixed = laboratory.train(SCHEMES[scheme].build(world), mine, of_all=steps)
        return synchronous, mixed

    for size in (2, 4):
        results = run_learners(size, learner)
        for name, expected in results[0][0].items():
            mean = torch.stack([mixed[name] for _, mixed in results]).mean(0)
            torch.testing.assert_close(mean, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["ring", "complete", "delay_by_one"])
def test_complete_mixing_equals_allreduce(run_learners, laboratory, name: str):
    """Three on a ring mix completely: after an empty step they hold all-reduce's weights, in fp32."""
    steps = laboratory.global_steps([2, 2, 4], steps=1, dtype=torch.float32)

    def learner(world: World):
        mine = [units[world.rank :: world.size] for units in steps]
        model = laboratory.network(torch.float32)
        _, synchronous = laboratory.train(AllReduce(bucket_mb=25, world=world), mine, model=model)
        model, backend = laboratory.network(torch.float32), mixing(name, world)
        laboratory.train(backend, mine, model=model, of_all=steps)
        backend.begin_step(0.0, 1.0)
        with backend.updating(apply=False):
            pass
        return synchronous, model.state_dict()

    for synchronous, mixed in run_learners(3, learner):
        assert_same(mixed, synchronous, 1e-6)


@pytest.mark.parametrize("name", MIXED)
def test_gradients_of_gossip_are_those_of_the_unmixed_weights(run_learners, name: str):
    """Step by step against the equation w_i + sum_j T_ij (w_j - w_i) - lr g(w_i), learners starting far apart."""
    generator = torch.Generator().manual_seed(3)
    starts = [torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(4)]
    inputs = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)  # learner, step, feature

    def learner(world: World) -> Tensor:
        model = nn.Linear(5, 1, bias=False).double()
        backend = mixing(name, world)
        backend.wrap(model)
        backend.attach(torch.optim.SGD(model.parameters(), lr=0.1))
        with torch.no_grad():
            model.weight.copy_(starts[world.rank])
        for x in inputs[world.rank]:
            divisor = backend.begin_step(1.0, 1.0)
            (model(x).square().sum() / divisor).backward()
            backend.reduce_gradients(None)
            with backend.updating(apply=True):
                backend.optimizer.step()
            backend.zero_grad()
        return model.weight.detach().flatten()

    W = torch.stack(starts)
    topology = make_topology("complete" if name == "delay_by_one" else name, seed=1)
    for step in range(3):
        x, T = inputs[:, step], topology.mixing_matrix(4, step)
        W = T @ W - 0.1 * 2 * (W * x).sum(1, keepdim=True) * x
    torch.testing.assert_close(torch.stack(run_learners(4, learner)), W, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scheme", words(lambda each: each.communicates_every_step))
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_gradient_is_skipped_by_all_or_by_the_one(run_learners, laboratory, scheme: str, bad: float):
    """Mixing goes on in a skipped step; afterwards all train on."""
    steps = laboratory.global_steps([2, 2, 2], steps=3)

    def learner(world: World):
        mine = copy.deepcopy([units[world.rank :: world.size] for units in steps])
        if world.rank == 1:
            mine[1][0][1][0, 0] = bad
        return laboratory.train(SCHEMES[scheme].build(world), mine, max_norm=1.0)

    results = run_learners(3, learner)
    finite = [[report.finite for report in reports] for reports, _ in results]
    skipped = [True, False, True]
    assert finite == ([[True] * 3, skipped, [True] * 3] if SCHEMES[scheme].gossip else [skipped] * 3)
    assert all(torch.isfinite(value).all() for _, weights in results for value in weights.values())
