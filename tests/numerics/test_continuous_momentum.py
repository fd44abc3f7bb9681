"""Laws of the continuous momentum of asynchronous gossip: constants, flow, conservation, and that it mixes faster."""

import math
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from distributed.errors import UsageError
from distributed.gossip.continuous_momentum import ContinuousMomentum, Flow, flow_of, graph_constants
from distributed.gossip.initiated import mixing_rates
from distributed.gossip.topology import TopologyName, make_topology
from distributed.learners.world import World
from distributed.schemes.adpsgd import AsynchronousGossip
from distributed.simulate.asynchronous import GossipLearning
from distributed.simulate.events import Events, FixedLink
from distributed.simulate.learners import Copies
from distributed.simulate.pace import Constant, LogNormal, Pace, Straggler
from tests.schemes import SCHEMES


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Constants


@pytest.mark.parametrize("size", [3, 8, 16, 33])
def test_the_constants_of_a_ring_are_those_of_its_closed_form(size: int):
    """One exchange of weight 1/3 per edge and round counts for 8/9."""
    chi_1, chi_2 = graph_constants(mixing_rates(make_topology("ring", 0), size))
    assert chi_1 == pytest.approx(1 / (8 / 9 * 2 * (1 - math.cos(2 * math.pi / size))))
    assert chi_2 == pytest.approx(9 / 8 * (1 - 1 / size) / 2)


@pytest.mark.parametrize(("name", "exchanges"), [("random_pairwise", 8), ("random_ring", 16 * 8 / 9)])
def test_random_rounds_are_a_complete_graph_on_average(name: TopologyName, exchanges: float):
    rates_LL = mixing_rates(make_topology(name, 1), 16)
    assert rates_LL.sum().item() / 2 == pytest.approx(exchanges, rel=0.15)  # those across the middle count less
    assert rates_LL.diagonal().abs().max() == 0
    off = rates_LL[~torch.eye(16, dtype=torch.bool)]
    assert off.min() == off.max()


def test_more_rounds_make_a_faster_flow_and_no_other_gain():
    topology = make_topology("ring", 0)
    once, twice = (flow_of(topology, 16, rounds) for rounds in (1.0, 2.0))
    assert twice.eta == pytest.approx(2 * once.eta)
    assert twice.gain == pytest.approx(once.gain)


def test_a_complete_graph_has_next_to_nothing_to_gain():
    assert flow_of(make_topology("complete", 0), 16, 1.0).gain == pytest.approx(1.0, abs=0.05)
    assert flow_of(make_topology("ring", 0), 64, 1.0).gain > 5


# The flow


def test_the_flow_is_the_exponential_of_its_matrix():
    flow = Flow(eta=0.37, gain=2.5)
    x, y = draw(7), draw(7, seed=1)
    momentum = ContinuousMomentum([moved := x.clone()], flow)
    momentum.offsets[0].copy_(y)
    momentum.elapse()
    matrix = torch.linalg.matrix_exp(flow.eta * torch.tensor([[-1.0, 1.0], [1.0, -1.0]], dtype=torch.float64))
    expected, expected_copy = matrix @ torch.stack([x, x + y])
    torch.testing.assert_close(moved, expected)
    torch.testing.assert_close(moved + momentum.offsets[0], expected_copy)


def gossiping(
    start_LP: Tensor, pace: Pace, flow: Flow | None, lr: float = 0.0, exchange_seconds: float = 0.2
) -> tuple[GossipLearning, Events]:
    copies = Copies(start_LP[0], len(start_LP), lambda parameters: torch.optim.SGD(parameters, lr=lr))
    copies.weights_CP.copy_(start_LP)
    learning = GossipLearning(
        loss=lambda weights_P, noise_P: weights_P @ noise_P,
        copies=copies,
        batch_of=lambda unit: draw(start_LP.shape[1], seed=unit),
        flow=flow,
    )
    events = Events(
        learners=len(start_LP),
        pace=pace,
        link=FixedLink(exchange_seconds),
        topology=make_topology("ring", seed=1),
        rounds_per_step=1.0,
        max_staleness=4,
        learning=learning,
    )
    return learning, events


def sum_of_both(learning: GossipLearning) -> Tensor:
    weights_LP = learning.copies.weights_CP
    offsets = [each.momentum.offsets[0] for each in learning.mixing if each.momentum is not None]
    assert len(offsets) == len(weights_LP)
    return 2 * weights_LP.sum(0) + torch.stack(offsets).sum(0)


@pytest.mark.parametrize("pace", [Constant(1.0), LogNormal(1.0, 0.4, seed=1), Straggler(Constant(1.0), 10.0)])
def test_the_sum_of_weights_and_copies_is_conserved_at_any_pace(pace: Pace):
    start_LP = draw(8, 5)
    learning, events = gossiping(start_LP, pace, flow_of(make_topology("ring", 1), 8, 1.0))
    events.run(range(240))
    learning.fold()
    torch.testing.assert_close(sum_of_both(learning), 2 * start_LP.sum(0), rtol=0, atol=1e-12)
    assert learning.copies.consensus_distance < 1e-2 * float((start_LP - start_LP.mean(0)).square().sum()) / 8


def test_the_copy_takes_every_update_of_the_weights():
    """With lr = 1 and gradients of the units, weights and copies together lose each gradient twice."""
    start_LP = draw(6, 5)
    learning, events = gossiping(start_LP, Constant(1.0), flow_of(make_topology("ring", 1), 6, 1.0), lr=1.0)
    events.run(range(60))
    learning.fold()
    gradients = sum(draw(5, seed=unit) for unit in range(60))
    torch.testing.assert_close(sum_of_both(learning), 2 * start_LP.sum(0) - 2 * gradients, rtol=0, atol=1e-11)


def test_with_a_gain_of_one_it_is_plain_gossip_bitwise():
    ends = []
    for flow in (None, Flow(eta=0.3, gain=1.0)):
        learning, events = gossiping(draw(6, 5), Constant(1.0), flow, lr=0.1)
        events.run(range(60))
        learning.fold()
        ends.append(learning.copies.weights_CP)
    assert torch.equal(*ends)


@pytest.mark.parametrize(("size", "times"), [(16, 10.0), (32, 3.0)])
def test_a_ring_agrees_faster_with_as_many_exchanges(size: int, times: float):
    """From the slowest mode of a ring, a wave once around it."""
    wave_LP = torch.cos(2 * math.pi * torch.arange(size, dtype=torch.float64) / size)[:, None]
    left, exchanges = [], []
    for flow in (None, flow_of(make_topology("ring", 1), size, 1.0)):
        learning, events = gossiping(wave_LP, LogNormal(1.0, 0.2, seed=3), flow)
        events.run(range(40 * size))
        learning.fold()
        left.append(learning.copies.consensus_distance)
        exchanges.append(events.exchanges)
    assert exchanges[0] == exchanges[1]
    assert left[1] * times < left[0]


@pytest.mark.parametrize("exchange_seconds", [0.1, 0.9])
def test_under_noise_learners_stay_closer_and_with_the_gain_of_the_theory_they_drift_apart(exchange_seconds: float):
    """Gradients are noise, on a ring of 64; exchanges are about a step old, which the theory does not know."""
    topology = make_topology("ring", 1)
    chi_1, chi_2 = graph_constants(mixing_rates(topology, 64))
    flow = flow_of(topology, 64, 1.0)
    distances = []
    for each in (None, flow, flow._replace(gain=math.sqrt(chi_1 / chi_2))):
        start_LP = torch.zeros(64, 10, dtype=torch.float64)
        learning, events = gossiping(start_LP, LogNormal(1.0, 0.2, seed=1), each, 1.0, exchange_seconds)
        events.run(range(64 * 80))
        learning.fold()
        distances.append(learning.copies.consensus_distance)
    plain, ours, of_theory = distances
    assert ours < 0.95 * plain
    assert of_theory > 5 * plain


# The backend


def backend_of(world: World) -> tuple[AsynchronousGossip, nn.Module]:
    backend = SCHEMES["adpsgd"].build(world, topology="ring", continuous_momentum=True)
    assert isinstance(backend, AsynchronousGossip)
    model = nn.Linear(20, 1, bias=False).double()
    backend.wrap(model)
    backend.synchronise(resumed=True)  # each keeps its own weights
    return backend, model


def test_learners_of_a_backend_conserve_the_sum_and_agree(run_learners: Callable[..., list[Tensor]]):
    starts_LP = draw(4, 20)

    def learn(world: World) -> Tensor:
        backend, model = backend_of(world)
        with torch.no_grad():
            model.weight.copy_(starts_LP[world.rank])
        while backend.round < 60:  # as many rounds as bring them together, however many steps those take
            backend.begin_step(1.0, 1.0)
            with backend.updating(apply=False):
                time.sleep(0.001)
        backend.drain()
        (offset,) = backend.state_dict()["offsets"]
        backend.close()
        return torch.stack([model.weight.detach().flatten().clone(), offset[:20].clone()])

    weights_LP, offsets_LP = torch.stack(run_learners(4, learn)).unbind(1)
    assert offsets_LP.abs().max() > 0
    torch.testing.assert_close(2 * weights_LP.sum(0) + offsets_LP.sum(0), 2 * starts_LP.sum(0), rtol=0, atol=1e-12)
    assert (weights_LP - weights_LP.mean(0)).norm() < 0.1 * (starts_LP - starts_LP.mean(0)).norm()


@pytest.mark.parametrize(("saved", "expected"), [(2, [3.0, 4.0]), (3, [0.0, 0.0])])
def test_a_checkpoint_holds_the_momentum_which_begins_anew_among_others(
    run_learners: Callable[..., list[float]], saved: int, expected: list[float]
):
    def learn(world: World) -> float:
        backend, _ = backend_of(world)
        (offset,) = backend.state_dict()["offsets"]
        states = [{"round": 5, "offsets": [torch.full_like(offset, 3.0 + rank)]} for rank in range(saved)]
        backend.load_state_dict(states, world.rank, world.size)
        found = offset[0].item()
        backend.close()
        return found

    assert run_learners(2, learn) == expected


@pytest.mark.parametrize("changes", [{"mix_moments": True}, {"compression": "int8"}])
def test_what_it_cannot_be_combined_with_is_refused(alone: World, changes: dict[str, object]):
    with pytest.raises(UsageError, match=r"backend.continuous_momentum=true mixes whole weights and nothing else"):
        SCHEMES["adpsgd"].build(alone, continuous_momentum=True, **changes)


def test_a_learner_alone_has_none(alone: World):
    backend = SCHEMES["adpsgd"].build(alone, continuous_momentum=True)
    backend.wrap(nn.Linear(2, 1))
    assert backend.state_dict() == {"round": 0}
