"""Which schemes must give the same numbers: all-reduce and one learner, gossip and all-reduce where mixing is complete."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from distributed.allreduce import AllReduce
from distributed.gossip import DecentralisedSgd
from distributed.launch import World
from distributed.single import Single


class Network(nn.Module):
    """An LSTM and two layers, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 6, batch_first=True)
        self.hidden = nn.Linear(6, 16)
        self.output = nn.Linear(16, 2)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.hidden(self.lstm(x.view(len(x), 4, 3))[0][:, -1]).tanh())


Unit = tuple[Tensor, Tensor]


def global_steps(sizes: list[int], steps: int) -> list[list[Unit]]:
    """Per step the units of the global batch, of ``sizes`` utterances each."""
    generator = torch.Generator().manual_seed(1)
    return [
        [
            (torch.randn(size, 12, generator=generator).double(), torch.randn(size, 2, generator=generator).double())
            for size in sizes
        ]
        for _ in range(steps)
    ]


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    """The same weights at every call; from a generator of its own, as learners are threads that share torch's."""
    model, generator = Network(), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5, generator=generator)
    return model.to(dtype)


def train(train_steps, backend, steps, max_norm=None, optimizer_class=torch.optim.SGD, model=None):
    """The reports of all steps and the final weights."""
    model = network() if model is None else model
    wrapped = backend.wrap(model)
    optimizer = optimizer_class(model.parameters(), lr=0.1)
    backend.attach(optimizer)
    backend.synchronise(resumed=False)
    reports = list(train_steps(backend, wrapped, optimizer, steps, max_norm))
    backend.close()
    return reports, {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float) -> None:
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("max_norm", [None, 0.05])
def test_allreduce_equals_one_learner_with_the_same_global_batch(run_learners, train_steps, size: int, max_norm):
    """Units of unequal weight; with fewer learners the rest is accumulation (12 units for 1, 2, 3 or 4)."""
    steps = global_steps([1, 3, 2, 5, 1, 4, 2, 2, 6, 1, 3, 1], steps=4)
    alone = Single(world=World(0, 1, 0, 1, torch.device("cpu"), None))
    expected_reports, expected = train(train_steps, alone, steps, max_norm, torch.optim.AdamW)

    def learner(world: World):
        mine = [units[world.rank :: world.size] for units in steps]
        backend = AllReduce(bucket_mb=0.001, world=world)  # several buckets
        return train(train_steps, backend, mine, max_norm, torch.optim.AdamW)

    for reports, weights in run_learners(size, learner):
        assert_same(weights, expected, 1e-9)
        for report, reference in zip(reports, expected_reports, strict=True):
            assert report.norm == pytest.approx(reference.norm, rel=1e-9)
            assert report.clipped == reference.clipped == (max_norm is not None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dpsgd_alone_is_plain_sgd_bitwise(train_steps, alone: World, dtype: torch.dtype):
    steps = [[(x.to(dtype), y.to(dtype)) for x, y in units] for units in global_steps([2, 3], steps=5)]
    model, reference = network(dtype), network(dtype)
    _, weights = train(train_steps, DecentralisedSgd(topology="ring", world=alone), steps, model=model)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    for units in steps:
        for x, y in units:
            ((reference(x) - y).square().sum() / 5.0).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(weights[name], value) for name, value in reference.state_dict().items())


def test_mean_of_dpsgd_after_one_step_is_allreduce_s_weights(run_learners, train_steps):
    """From equal weights mixing changes nothing, and the mean takes the mean gradient."""
    steps = global_steps([2, 5, 3, 1], steps=1)

    def learner(world: World):
        mine = [units[world.rank :: world.size] for units in steps]
        _, synchronous = train(train_steps, AllReduce(bucket_mb=25, world=world), mine)
        _, gossip = train(train_steps, DecentralisedSgd(topology="ring", world=world), mine)
        return synchronous, gossip

    for size in (2, 4):
        results = run_learners(size, learner)
        for name, expected in results[0][0].items():
            mean = torch.stack([gossip[name] for _, gossip in results]).mean(0)
            torch.testing.assert_close(mean, expected, rtol=1e-12, atol=1e-12)


def test_complete_mixing_equals_allreduce(run_learners, train_steps):
    """Three on a ring mix completely: after an empty step they hold all-reduce's weights, in fp32."""
    steps = [[(x.float(), y.float()) for x, y in units] for units in global_steps([2, 2, 4], steps=1)]

    def learner(world: World):
        mine = [units[world.rank :: world.size] for units in steps]
        _, synchronous = train(train_steps, AllReduce(bucket_mb=25, world=world), mine, model=network(torch.float32))
        model, backend = network(torch.float32), DecentralisedSgd(topology="ring", world=world)
        train(train_steps, backend, mine, model=model)
        backend.begin_step(0.0)
        with backend.updating(apply=False):
            pass
        return synchronous, model.state_dict()

    for synchronous, gossip in run_learners(3, learner):
        assert_same(gossip, synchronous, 1e-6)


def test_gradients_of_dpsgd_are_those_of_the_unmixed_weights(run_learners):
    """Step by step against the equation w_i + sum_j T_ij (w_j - w_i) - lr g(w_i), learners starting far apart."""
    generator = torch.Generator().manual_seed(3)
    starts = [torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(4)]
    inputs = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)  # learner, step, feature

    def learner(world: World) -> Tensor:
        model = nn.Linear(5, 1, bias=False).double()
        backend = DecentralisedSgd(topology="ring", world=world)
        backend.wrap(model)
        backend.attach(torch.optim.SGD(model.parameters(), lr=0.1))
        with torch.no_grad():
            model.weight.copy_(starts[world.rank])
        for x in inputs[world.rank]:
            divisor = backend.begin_step(1.0)
            (model(x).square().sum() / divisor).backward()
            backend.reduce_gradients(None)
            with backend.updating(apply=True):
                backend.optimizer.step()
            backend.zero_grad()
        return model.weight.detach().flatten()

    W = torch.stack(starts)
    T = DecentralisedSgd(topology="ring", world=World(0, 1, 0, 1, torch.device("cpu"), None)).topology.mixing_matrix(
        4, 0
    )
    for step in range(3):
        x = inputs[:, step]
        W = T @ W - 0.1 * 2 * (W * x).sum(1, keepdim=True) * x
    torch.testing.assert_close(torch.stack(run_learners(4, learner)), W, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scheme", ["allreduce", "dpsgd"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_gradient_is_skipped_by_all_or_by_the_one(run_learners, train_steps, scheme: str, bad: float):
    """Mixing goes on in a skipped step; afterwards all train on."""
    steps = global_steps([2, 2, 2], steps=3)

    def learner(world: World):
        mine = copy.deepcopy([units[world.rank :: world.size] for units in steps])
        if world.rank == 1:
            mine[1][0][1][0, 0] = bad
        backend = AllReduce(bucket_mb=1, world=world) if scheme == "allreduce" else None
        return train(train_steps, backend or DecentralisedSgd(topology="ring", world=world), mine, max_norm=1.0)

    results = run_learners(3, learner)
    finite = [[report.finite for report in reports] for reports, _ in results]
    skipped = [True, False, True]
    assert finite == ([skipped] * 3 if scheme == "allreduce" else [[True] * 3, skipped, [True] * 3])
    assert all(torch.isfinite(value).all() for _, weights in results for value in weights.values())
