"""Laws of asynchronous gossip, with learners that go at a pace of their own."""

import random
import threading
import time
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import PrefixStore

from distributed import async_gossip
from distributed.async_gossip import AsynchronousGossip, initiated
from distributed.launch import World, gloo_group
from distributed.pairwise import Buffers, ExchangeError, Pairwise
from distributed.topology import TopologyName, make_topology

TOPOLOGIES = get_args(TopologyName)


def make_backend(world: World, **changes: Any) -> AsynchronousGossip:
    settings: dict[str, Any] = {
        **{"topology": "ring", "rounds_per_step": 1.0, "max_staleness": 4},
        **{"mix_moments": False, "seed": 1},
    }
    return AsynchronousGossip(**(settings | changes), world=world)


def skipped_steps(backend: AsynchronousGossip, steps: int) -> None:
    """Steps without an update, of random length; a learner of higher rank is slower."""
    rank = backend.world.rank
    pace = random.Random(rank)
    for _ in range(steps):
        backend.begin_step(1.0)
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
        backend.begin_step(1.0)
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
            backend.begin_step(1.0)
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 1.0 + world.rank) if parameter in set(trained) else None
            with backend.updating(apply=True):
                optimizer.step()
            with backend.consensus():
                pass
        for _ in range(100):
            backend.begin_step(1.0)
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
        backend.begin_step(1.0)
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
            backend.begin_step(1.0)
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
            backend.begin_step(1.0)
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


def test_half_rounds_are_saved_up_and_not_lost(run_learners):
    def learn(world: World) -> float:
        backend = synchronised(world, rounds_per_step=1.5)
        for step in range(20):
            step_alone(backend)
            deadline = time.monotonic() + 10
            while backend.round < int(1.5 * (step + 1)) and time.monotonic() < deadline:
                time.sleep(0.001)
        backend.drain()
        backend.close()
        return backend.round

    assert run_learners(2, learn) == [30, 30]


def synchronised(world: World, **changes: Any) -> AsynchronousGossip:
    """A backend of ten weights, whose threads run."""
    backend = make_backend(world, **changes)
    backend.wrap(nn.Linear(10, 1, bias=False))
    backend.synchronise(resumed=True)
    return backend


def step_alone(backend: AsynchronousGossip) -> None:
    """A skipped step."""
    backend.begin_step(1.0)
    with backend.updating(apply=False):
        pass


def step_for(seconds: float, backend: AsynchronousGossip) -> None:
    """Skipped steps, until one of them raises."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        step_alone(backend)
        time.sleep(0.01)


def test_threads_end_when_all_work_is_done(run_learners):
    def learn(world: World) -> tuple[float, bool]:
        backend = synchronised(world)
        step_alone(backend)
        backend.drain()
        threads = [thread._thread for thread in backend._threads]
        started = time.perf_counter()
        backend.close()
        return time.perf_counter() - started, any(thread.is_alive() for thread in threads)

    for seconds, alive in run_learners(3, learn):
        assert seconds < 3
        assert not alive


def test_a_learner_that_fails_on_the_way_does_not_silence_the_next_one(run_learners):
    """Learner 1 still answers: it would otherwise let others wait, and nobody would hear why."""

    def learn(world: World) -> bool:
        backend = synchronised(world)
        step_alone(backend)
        if world.rank == 0:
            backend.close()  # as after an error
        world.barrier()
        time.sleep(0.5)
        answers = backend._threads[1]._thread.is_alive() if backend._threads else True
        world.barrier()
        return answers

    assert all(run_learners(3, learn))


def test_a_learner_with_more_to_do_says_who_has_ended(run_learners, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(async_gossip, "_END_SECONDS", 0.1)  # learner 2 never ends learner 0's thread

    def learn(world: World) -> str:
        backend = synchronised(world)
        step_alone(backend)
        backend.drain()
        message = ""
        if world.rank == 1:
            with pytest.raises(ExchangeError) as raised:
                step_for(12, backend)
            message = str(raised.value)
        elif world.rank == 0:
            backend.close()
        world.barrier()
        return message

    assert "learner 0 has ended" in run_learners(3, learn)[1]


def test_a_peer_that_does_not_answer_is_named_within_the_timeout(run_learners, monkeypatch: pytest.MonkeyPatch):
    """A request may be waited for as long as it takes, an answer may not."""
    answering, over = Pairwise.answer, threading.Event()

    def answer(self: Pairwise, buffers: Buffers) -> bool:
        return answering(self, buffers) if self.group.rank() == 0 else not over.wait()

    monkeypatch.setattr(Pairwise, "answer", answer)

    def learn(world: World) -> str:
        store = PrefixStore("impatient", world.joined.get_group_store())
        group = gloo_group(store, world.rank, 2, timeout_seconds=3.0)
        backend = synchronised(World(world.rank, 2, world.rank, 2, world.device, group))
        message = ""
        if world.rank == 0:
            with pytest.raises(ExchangeError) as raised:
                step_for(12, backend)
            message = str(raised.value)
        world.barrier()
        over.set()
        return message

    assert "learner 1 does not answer" in run_learners(2, learn)[0]


def test_nobody_goes_on_while_another_still_holds_the_mean(run_learners):
    """Its next exchange would mix with the mean model in place of that learner's weights."""

    def learn(world: World) -> tuple[float, float]:
        backend = synchronised(world)
        with backend.consensus():
            time.sleep(0.5 * world.rank)
            inside = time.monotonic()
        after = time.monotonic()
        backend.close()
        return inside, after

    (_, first_after), (second_inside, _) = run_learners(2, learn)
    assert first_after >= second_inside


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("size", range(2, 10))
def test_every_edge_is_initiated_by_one_of_its_ends_with_its_weight(name: TopologyName, size: int):
    topology = make_topology(name, seed=3)
    for round in range(4):
        T = topology.mixing_matrix(size, round)
        exchanged = torch.zeros(size, size, dtype=torch.float64)
        for rank in range(size):
            for peer, weight in initiated(topology, rank, size, round).items():
                assert exchanged[peer, rank] == 0
                exchanged[rank, peer] += weight
        torch.testing.assert_close(exchanged + exchanged.T, ((T + T.T) / 2).fill_diagonal_(0), rtol=0, atol=1e-15)


def test_one_learner_goes_on_by_itself(alone: World):
    weights, figures = mix_only(alone, torch.ones(5), 3)
    assert torch.equal(weights, torch.ones(5))
    assert figures["comm/rounds"] == 0
