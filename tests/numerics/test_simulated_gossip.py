"""Laws of simulated gossip: the mean is conserved, disagreement contracts by the spectral gap, asynchrony is the real one's."""

import math
import statistics
import time
from itertools import chain
from typing import get_args

import pytest
import torch
from torch import Tensor

from distributed.gossip.mixing import mean_differences, mixed_differences
from distributed.gossip.topology import TopologyName, make_topology
from distributed.learners.world import World
from distributed.simulate.asynchronous import GossipLearning
from distributed.simulate.events import Events, FixedLink
from distributed.simulate.learners import Copies
from distributed.simulate.pace import Constant, LogNormal, Pace, Straggler
from tests.schemes import SCHEMES

TOPOLOGIES = get_args(TopologyName)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("learners", [2, 5, 16, 32])
def test_mixing_of_all_at_once_is_the_matrix_and_conserves_the_mean(name: TopologyName, learners: int):
    weights_LP, topology = draw(learners, 20), make_topology(name, seed=1)
    for round in range(3):
        mixed_LP = weights_LP + mixed_differences(weights_LP, topology, round)
        expected_LP = topology.mixing_matrix(learners, round) @ weights_LP
        torch.testing.assert_close(mixed_LP, expected_LP, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(mixed_LP.mean(0), weights_LP.mean(0), rtol=0, atol=1e-14)
        weights_LP = mixed_LP


@pytest.mark.parametrize("learners", [5, 32])
def test_learners_that_agree_stay_bitwise_where_they_are(learners: int):
    agreed_LP = draw(1, 20).float().repeat(learners, 1)
    for name in TOPOLOGIES:
        assert not mixed_differences(agreed_LP, make_topology(name, seed=1), 0).any(), name


def test_complete_mixing_is_the_mean():
    weights_LP = draw(7, 20)
    torch.testing.assert_close(
        mean_differences(weights_LP), mixed_differences(weights_LP, make_topology("complete", 1), 0)
    )


@pytest.mark.parametrize("learners", [8, 16, 64])
def test_disagreement_contracts_by_the_spectral_gap_of_the_ring(learners: int):
    """(1/3 + 2/3 cos(2 pi / L))^2 per round: at once for the slowest wave, as a bound for any weights."""
    ring, factor = make_topology("ring", 1), (1 / 3 + 2 / 3 * math.cos(2 * math.pi / learners)) ** 2
    wave_LP = torch.cos(2 * math.pi * torch.arange(learners, dtype=torch.float64) / learners)[:, None]
    for weights_LP, exact in ((wave_LP, True), (draw(learners, 20), False)):
        mixed_LP = weights_LP + mixed_differences(weights_LP, ring, 0)
        ratio = _distance(mixed_LP) / _distance(weights_LP)
        assert ratio == pytest.approx(factor, rel=1e-9) if exact else ratio <= factor


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("random_ring", lambda size: (size - 3) / (3 * (size - 1))),
        ("random_pairwise", lambda s: (s - 2) / (2 * (s - 1))),
    ],
)
def test_disagreement_contracts_on_average_as_random_topologies_say(name: TopologyName, factor):
    weights_LP, topology = draw(16, 20), make_topology(name, seed=1)
    ratios = [
        _distance(weights_LP + mixed_differences(weights_LP, topology, round)) / _distance(weights_LP)
        for round in range(200)
    ]
    assert statistics.mean(ratios) == pytest.approx(factor(16), rel=0.05)


def _distance(weights_LP: Tensor) -> float:
    return float((weights_LP - weights_LP.mean(0)).square().sum())


# Asynchronous gossip

PACES: list[Pace] = [Constant(1.0), LogNormal(1.0, 0.4, seed=1), Straggler(LogNormal(1.0, 0.2, seed=2), 10.0)]


CURVATURE = 0.05  # so weak that learners who did not mix would drift apart


def quadratic(weights_P: Tensor, noise_P: Tensor) -> Tensor:
    """Its gradient is CURVATURE (w - 1) - noise."""
    return 0.5 * CURVATURE * (weights_P - 1).square().sum() - weights_P @ noise_P


def asynchronous(
    start_LP: Tensor, pace: Pace, lr: float, exchange_seconds: float, topology: TopologyName = "ring", **changes
) -> tuple[GossipLearning, Events]:
    copies = Copies(start_LP[0], len(start_LP), lambda parameters: torch.optim.SGD(parameters, lr=lr))
    copies.weights_CP.copy_(start_LP)
    settings = {"rounds_per_step": 1.0, "max_staleness": 4} | changes
    learning = GossipLearning(
        loss=quadratic,
        copies=copies,
        batch_of=lambda unit: 0.3 * draw(start_LP.shape[1], seed=unit),
    )
    events = Events(
        learners=len(start_LP),
        pace=pace,
        link=FixedLink(exchange_seconds),
        topology=make_topology(topology, seed=1),
        learning=learning,
        **settings,
    )
    return learning, events


@pytest.mark.parametrize(("topology", "pace"), zip(TOPOLOGIES, (*PACES, *PACES), strict=False))
def test_asynchronous_mixing_conserves_the_mean_at_any_pace(topology: TopologyName, pace: Pace):
    start_LP = draw(6, 10)
    learning, events = asynchronous(start_LP, pace, 0.0, 0.7, topology)
    events.run(range(180))
    learning.fold()
    torch.testing.assert_close(learning.copies.mean, start_LP.mean(0), rtol=0, atol=1e-12)
    assert learning.copies.consensus_distance < 1e-4 * _distance(start_LP) / 6
    staleness = learning.take_staleness()
    assert 0 < max(staleness) <= 4
    assert sum(staleness.values()) == 2 * events.exchanges


def test_a_slow_learner_takes_fewer_units_and_holds_up_nobody():
    learning, events = asynchronous(draw(4, 3), Straggler(Constant(1.0), 10.0), 0.1, 0.1)
    events.run(range(310))
    assert sorted(learning.losses) == list(range(310))
    assert [each.units for each in events.learners] == pytest.approx([10, 100, 100, 100], abs=2)
    assert events.now == pytest.approx(310 / 3.1, rel=0.12)  # the slow one's last unit may be all that is left


def test_a_link_slower_than_the_bound_holds_up_everybody():
    """At most ``max_staleness`` updates end between an exchange's snapshot and its end."""
    ended = {}
    for exchange_seconds in (0.1, 20.0):
        _, events = asynchronous(draw(4, 3), Constant(1.0), 0.1, exchange_seconds, max_staleness=5)
        events.run(range(200))
        ended[exchange_seconds] = events.learners[1].ended_at
    assert ended[0.1] == pytest.approx(50, rel=0.03)
    assert ended[20.0] > 150


def real_asynchronous(
    run_learners, units: int, unit_seconds: float, lr: float
) -> tuple[Tensor, list[float], list[float]]:
    """Real learners that sleep in place of computing, on the same loss: weights, seconds of units and of exchanges."""

    def learner(world: World) -> tuple[Tensor, list[float], list[float]]:
        model = torch.nn.Linear(10, 1, bias=False).double()
        backend = SCHEMES["adpsgd"].build(world, topology="ring")
        backend.wrap(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        backend.attach(optimizer)
        backend.synchronise(resumed=True)
        with torch.no_grad():
            model.weight.zero_()
        world.barrier()
        seconds, began = [], time.perf_counter()
        while (unit := world.claim("units", 1)) < units:
            backend.begin_step(1.0, 1.0)
            time.sleep(unit_seconds)
            model.weight.grad = CURVATURE * (model.weight.detach() - 1) - 0.3 * draw(10, seed=unit)
            with backend.updating(apply=True):
                optimizer.step()
            seconds.append(-began + (began := time.perf_counter()))
        backend.drain()
        exchanges = [span.end - span.start for span in world.traffic.newest_spans() if span.kind == "exchange"]
        backend.close()
        return model.weight.detach().flatten().clone(), seconds, exchanges

    weights, seconds, exchanges = zip(*run_learners(4, learner), strict=True)
    return torch.stack(weights), list(chain(*seconds)), list(chain(*exchanges))


def test_adpsgd_agrees_in_distribution_with_real_learners(run_learners):
    """Consensus distance and loss at the end, simulated with the real units' times; only timing differs between the two."""
    units, lr = 160, 0.3

    def figures(weights_LP: Tensor) -> tuple[float, float]:
        return _distance(weights_LP) / 4, float((weights_LP.mean(0) - 1).square().sum())

    alone, queue = asynchronous(torch.zeros(4, 10).double(), Constant(1.0), lr, 0.2, rounds_per_step=1e-9)
    queue.run(range(units))
    runs = [real_asynchronous(run_learners, units, 0.004, lr) for _ in range(3)]
    real = [figures(weights_LP) for weights_LP, _, _ in runs]
    logs = [math.log(each) for _, seconds, _ in runs for each in seconds]
    exchange_seconds = statistics.median(each for _, _, exchanges in runs for each in exchanges)
    mean_seconds = statistics.mean(each for _, seconds, _ in runs for each in seconds)
    simulated = []
    for seed in range(8):
        pace = LogNormal(mean_seconds, statistics.stdev(logs), seed)
        learning, events = asynchronous(torch.zeros(4, 10).double(), pace, lr, exchange_seconds)
        events.run(range(units))
        learning.fold()
        simulated.append(figures(learning.copies.weights_CP))
    for place, name in enumerate(("consensus distance", "squared error of the mean")):
        of_real, of_simulated = (statistics.median(each[place] for each in found) for found in (real, simulated))
        assert 0.4 < of_real / of_simulated < 2.5, f"{name}: {real} against {simulated}"
    assert figures(alone.copies.weights_CP)[0] > 10 * statistics.median(each[0] for each in simulated)
