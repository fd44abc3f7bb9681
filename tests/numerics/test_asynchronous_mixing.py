"""Laws of asynchronous gossip, with learners that go at a pace of their own."""

import random
import time
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from distributed.gossip import pairwise
from distributed.gossip.initiated import initiated
from distributed.gossip.topology import TopologyName, make_topology
from distributed.learners.world import World
from distributed.schemes.adpsgd import AsynchronousGossip
from tests.schemes import SCHEMES

TOPOLOGIES = get_args(TopologyName)


def make_backend(world: World, **changes: Any) -> AsynchronousGossip:
    backend = SCHEMES["adpsgd"].build(world, **changes)
    assert isinstance(backend, AsynchronousGossip)
    return backend


def skipped_steps(backend: AsynchronousGossip, steps: int) -> None:
    """Steps without an update, of random length; a learner of higher rank is slower."""
    rank = backend.world.rank
    pace = random.Random(rank)
    for _ in range(steps):
        backend.begin_step(1.0, 1.0)
        if pace.random() < 0.2:
            time.sleep(pace.uniform(0, 0.004 * (1 + rank)))
        with backend.updating(apply=False):
            pass


def mix_only(world: World, start: Tensor, steps: int, **changes: Any) -> tuple[Tensor, dict[str, float]]:
    """The weights of one learner after ``steps`` skipped steps of random length, and the backend's figures."""
    model = nn.Linear(len(start), 1, bias=False).to(start.dtype)
    backend = make_backend(world, **changes)
    backend.wrap(model)
    backend.synchronise(resumed=True)  # each keeps its own weights
    with torch.no_grad():
        model.weight.copy_(start)
    skipped_steps(backend, steps)
    backend.drain()
    figures = backend.metrics()
    backend.close()
    return model.weight.detach().flatten().clone(), figures


@pytest.mark.parametrize(
    ("size", "topology"),
    [(2, "ring"), (3, "ring"), (4, "random_ring"), (5, "random_pairwise"), (4, "exponential"), (3, "complete")],
)
def test_the_sum_over_learners_is_conserved_whatever_the_timing(run_learners, size: int, topology: TopologyName):
    starts = torch.randn(size, 100, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    results = run_learners(size, lambda world: mix_only(world, starts[world.rank], 400, topology=topology))
    final = torch.stack([weights for weights, _ in results])
    torch.testing.assert_close(final.mean(0), starts.mean(0), rtol=0, atol=1e-12)
    assert all(figures["comm/rounds"] > 0 for _, figures in results)
    # and they have come close to each other
    assert (final - final.mean(0)).norm() < 1e-2 * (starts - starts.mean(0)).norm()


def mix_with_moments(world: World, start: Tensor, steps: int, resumed: bool) -> dict[str, Tensor]:
    """One update, a mark, then skipped steps: the moments of each learner after that first update and at the end."""
    model = nn.Linear(len(start), 1, bias=False).to(start.dtype)
    backend = make_backend(world, mix_moments=True)
    optimizer = torch.optim.AdamW(backend.wrap(model).parameters(), lr=0.0)
    backend.attach(optimizer)

    def update(gradient: Tensor) -> None:
        backend.begin_step(1.0, 1.0)
        model.weight.grad = gradient[None].clone()
        with backend.updating(apply=True):
            optimizer.step()

    if resumed:
        model.weight.grad = start[None].clone()
        optimizer.step()
        backend.synchronise(resumed=True)
    else:
        backend.synchronise(resumed=False)
        update(start)
        with backend.consensus():
            pass
    first = {name: value.clone() for name, value in optimizer.state[model.weight].items()}
    skipped_steps(backend, steps)
    backend.drain()
    last = {f"last/{name}": value.clone() for name, value in optimizer.state[model.weight].items()}
    figures = backend.metrics()
    backend.close()
    return first | last | {"bytes": torch.tensor(figures["comm/bytes_sent"])}


@pytest.mark.parametrize("resumed", [False, True])
def test_moments_are_mixed_from_the_first_mark_on_at_which_all_have_them(run_learners, resumed: bool):
    starts = torch.randn(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    results = run_learners(3, lambda world: mix_with_moments(world, starts[world.rank], 200, resumed))
    for name in ("exp_avg", "exp_avg_sq"):
        before, after = (torch.stack([each[key] for each in results]) for key in (name, f"last/{name}"))
        torch.testing.assert_close(after.mean(0), before.mean(0), rtol=0, atol=1e-12)
        assert (after - after.mean(0)).norm() < 0.05 * (before - before.mean(0)).norm(), name


def test_moments_wait_for_the_parameter_that_gets_its_gradient_last(run_learners):
    """Its first one comes after the first mark; all moments are mixed from the second one on."""

    def learner(world: World) -> Tensor:
        backend, model = make_backend(world, mix_moments=True), nn.Linear(2, 1)
        optimizer = torch.optim.SGD(backend.wrap(model).parameters(), lr=0.0, momentum=0.9)
        backend.attach(optimizer)
        backend.synchronise(resumed=False)
        for trained in ([model.weight], [model.weight, model.bias]):
            backend.begin_step(1.0, 1.0)
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 1.0 + world.rank) if parameter in set(trained) else None
            with backend.updating(apply=True):
                optimizer.step()
            with backend.consensus():
                pass
        for _ in range(100):
            backend.begin_step(1.0, 1.0)
            time.sleep(0.001)
            with backend.updating(apply=False):
                pass
        backend.drain()
        backend.close()
        return torch.cat([optimizer.state[p]["momentum_buffer"].flatten() for p in model.parameters()])

    first, second = run_learners(2, learner)
    torch.testing.assert_close(second, first, atol=1e-3, rtol=0)


def test_an_optimizer_without_moments_is_refused_after_its_first_step(run_learners):
    def step(world: World) -> None:
        model = nn.Linear(2, 1)
        backend = make_backend(world, mix_moments=True)
        optimizer = torch.optim.SGD(backend.wrap(model).parameters(), lr=0.1)
        backend.attach(optimizer)
        backend.synchronise(resumed=False)
        backend.begin_step(1.0, 1.0)
        with backend.updating(apply=True):
            optimizer.step()

    with pytest.raises(ValueError, match="keeps no moments"):
        run_learners(2, step)


def test_staleness_stays_within_its_bound(run_learners):
    starts = torch.randn(3, 200_000, generator=torch.Generator().manual_seed(0))
    results = run_learners(3, lambda world: mix_only(world, starts[world.rank], 150, max_staleness=2))
    assert all(figures["comm/staleness_max"] <= 2 for _, figures in results)
    assert any(figures["comm/staleness_max"] > 0 for _, figures in results)
    for _, figures in results:
        counted = {key.split("/")[2]: value for key, value in figures.items() if key.startswith("comm/staleness/")}
        assert set(counted) <= {"0", "1", "2"}
        assert sum(counted.values()) >= figures["comm/rounds"], "every exchange begun here, and those answered"


def test_a_learner_initiates_no_more_rounds_than_it_is_allowed(run_learners):
    starts = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    results = run_learners(3, lambda world: mix_only(world, starts[world.rank], 100, rounds_per_step=0.25))
    assert all(1 <= figures["comm/rounds"] <= 25 for _, figures in results)


def test_a_fast_learner_does_not_wait_for_a_slow_one(run_learners):
    steps = {0: 3, 1: 60, 2: 60}
    done: dict[int, float] = {}

    def learn(world: World) -> int:
        model = nn.Linear(1000, 1)
        backend = make_backend(world)
        backend.wrap(model)
        backend.synchronise(resumed=False)
        world.barrier()
        started = time.perf_counter()
        for _ in range(steps[world.rank]):
            backend.begin_step(1.0, 1.0)
            time.sleep(0.4 if world.rank == 0 else 0.002)
            with backend.updating(apply=False):
                pass
        done[world.rank] = time.perf_counter() - started
        rounds = backend.metrics()["comm/rounds"]
        backend.drain()
        backend.close()
        return int(rounds)

    rounds = run_learners(3, learn)
    assert done[0] > 1.2
    assert max(done[1], done[2]) < 0.8
    assert min(rounds[1:]) > 20  # with the slow one as a neighbour of both


def test_gradients_are_those_of_the_weights_that_the_forward_used(run_learners):
    """Nothing but ``updating`` writes weights, however busy the background is."""

    def learn(world: World) -> tuple[bool, int]:
        torch.manual_seed(world.rank)
        model = nn.Linear(50_000, 1, bias=False)
        backend = make_backend(world, rounds_per_step=8.0)
        backend.wrap(model)
        backend.synchronise(resumed=True)
        unchanged, deadline = True, time.monotonic() + 15
        while backend.round < 30 and time.monotonic() < deadline:
            backend.begin_step(1.0, 1.0)
            before = model.weight.detach().clone()
            time.sleep(0.002)
            unchanged &= torch.equal(before, model.weight)
            with backend.updating(apply=True):
                pass
        backend.drain()
        rounds = backend.round
        backend.close()
        return unchanged, rounds

    for unchanged, rounds in run_learners(3, learn):
        assert unchanged
        assert rounds >= 30


@pytest.mark.parametrize(("size", "topology"), [(2, "ring"), *((4, name) for name in TOPOLOGIES)])  # two have but one
def test_learners_come_together_over_a_link_slower_than_their_steps(
    run_learners, monkeypatch: pytest.MonkeyPatch, size: int, topology: TopologyName
):
    """Several exchanges of the same weights are then under way at once, and together must not go past the mean."""
    wait = pairwise._wait
    monkeypatch.setattr(pairwise, "_wait", lambda works: (wait(works), time.sleep(0.02)))
    starts = torch.randn(size, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def learn(world: World) -> Tensor:
        backend = make_backend(world, topology=topology, max_staleness=64)
        model = nn.Linear(50, 1, bias=False).double()
        backend.wrap(model)
        backend.synchronise(resumed=True)
        with torch.no_grad():
            model.weight.copy_(starts[world.rank])
        world.barrier()
        deadline = time.monotonic() + 15
        while backend.round < 40 and time.monotonic() < deadline:
            backend.begin_step(1.0, 1.0)
            time.sleep(0.005)
            with backend.updating(apply=False):
                pass
        backend.drain()
        backend.close()
        return model.weight.detach().flatten()

    final = torch.stack(run_learners(size, learn))
    assert (final - final.mean(0)).norm() < 0.1 * (starts - starts.mean(0)).norm()


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("size", range(2, 10))
def test_what_both_ends_of_an_edge_initiate_adds_up_to_its_weight(name: TopologyName, size: int):
    topology = make_topology(name, seed=3)
    for round in range(4):
        T = topology.mixing_matrix(size, round)
        exchanged = torch.zeros(size, size, dtype=torch.float64)
        for rank in range(size):
            for peer, weight in initiated(topology, rank, size, round).items():
                exchanged[rank, peer] += weight
        torch.testing.assert_close(exchanged + exchanged.T, ((T + T.T) / 2).fill_diagonal_(0), rtol=0, atol=1e-15)


def test_one_learner_goes_on_by_itself(alone: World):
    weights, figures = mix_only(alone, torch.ones(5), 3)
    assert torch.equal(weights, torch.ones(5))
    assert figures["comm/rounds"] == 0
