"""What each scheme promises beyond the common laws: delay-by-one, noise, and moments that are mixed."""

import math

import pytest
import torch
from torch import Tensor, nn

from distributed.backend import Backend
from distributed.gossip.topology import TopologyName, make_topology
from distributed.learners.world import World
from distributed.schemes.allreduce import AllReduce
from distributed.schemes.dpsgd import DecentralisedSgd
from distributed.schemes.ssgd_noise import NoisyAllReduce
from scripts.composition.startup import line_for_people
from tests.schemes import SCHEMES

LR = 0.1


def gossip(world: World, topology: TopologyName, mix_moments: bool = False) -> DecentralisedSgd:
    return SCHEMES["dpsgd"].build(world, topology=topology, mix_moments=mix_moments)


def noisy(world: World, sigma: float) -> NoisyAllReduce:
    return NoisyAllReduce(sigma=sigma, seed=3, bucket_mb=25, world=world)


def prepare(backend: Backend, optimizer_class=torch.optim.SGD, **options) -> nn.Linear:
    """A linear model of five inputs in float64, the same on all learners, under the backend and an optimizer."""
    model = nn.Linear(5, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-1, 1, 5))
    wrapped = backend.wrap(model)
    backend.attach(optimizer_class(model.parameters(), lr=LR, **options))
    backend.synchronise(resumed=False)
    return wrapped


def step(backend: Backend, wrapped: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """One step on the squared error; returns the gradient that the optimizer saw."""
    (wrapped(x) - y).square().sum().backward()
    report = backend.reduce_gradients(None)
    gradient = next(wrapped.parameters()).grad.flatten().clone()
    with backend.updating(apply=report.finite):
        if report.finite:
            backend.optimizer.step()
    backend.zero_grad()
    return gradient


def weights(wrapped: nn.Module) -> Tensor:
    return next(wrapped.parameters()).detach().flatten().clone()


def data(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# Delay-by-one


def test_delay_by_one_leaves_learners_apart_by_their_last_gradients_alone(run_learners):
    """delta_i = -lr (g_i - mean g) after every step: arXiv 2110.11199, Algorithm 4."""
    x, y = data(4, 6, 3, 5), data(4, 6, 3, 1)  # learner, step, utterance, feature

    def learner(world: World) -> list[tuple[Tensor, Tensor]]:
        backend = SCHEMES["delay_by_one"].build(world)
        wrapped, history = prepare(backend), []
        for x_k, y_k in zip(x[world.rank], y[world.rank], strict=True):
            backend.begin_step(3.0, 3.0)
            gradient = step(backend, wrapped, x_k, y_k)
            history.append((gradient, weights(wrapped)))
        backend.close()
        return history

    for outcomes in zip(*run_learners(4, learner), strict=True):
        gradients, after = (torch.stack(each) for each in zip(*outcomes, strict=True))
        delta, expected = after - after.mean(0), -LR * (gradients - gradients.mean(0))
        torch.testing.assert_close(delta, expected, rtol=1e-10, atol=1e-12)
        assert delta.abs().max() > 1e-3


def test_delay_by_one_is_dpsgd_with_complete_mixing(run_learners, laboratory):
    steps = laboratory.global_steps([2, 5, 3], steps=5)

    def learner(world: World) -> tuple[dict[str, Tensor], ...]:
        mine = [units[world.rank :: world.size] for units in steps]
        backends = (SCHEMES["delay_by_one"].build(world, mix_moments=True), gossip(world, "complete", mix_moments=True))
        return tuple(laboratory.train(each, mine, 0.5, torch.optim.AdamW)[1] for each in backends)

    for reduced, exchanged in run_learners(3, learner):
        for name, value in reduced.items():
            torch.testing.assert_close(value, exchanged[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("scheme", ["delay_by_one", "complete", "ring", "exponential"])
def test_mean_weights_follow_synchronous_sgd_where_curvatures_agree(run_learners, scheme: str):
    """Same inputs, other targets: gradients are linear with one Hessian, so the mean sees the gradient at the mean."""
    x, y = data(6, 3, 5), data(4, 6, 3, 1)

    def learner(world: World) -> list[Tensor]:
        mixing = SCHEMES["delay_by_one"].build(world) if scheme == "delay_by_one" else gossip(world, scheme)
        results = []
        for backend in (AllReduce(bucket_mb=25, world=world), mixing):
            wrapped = prepare(backend)
            for k in range(6):
                backend.begin_step(3.0, 3.0)
                step(backend, wrapped, 0.3 * x[k], y[world.rank, k])
            results.append(weights(wrapped))
        return results

    synchronous, mixed = (torch.stack(each) for each in zip(*run_learners(4, learner), strict=True))
    torch.testing.assert_close(mixed.mean(0), synchronous[0], rtol=1e-12, atol=1e-13)
    assert (mixed - mixed.mean(0)).abs().max() > 1e-3


# Noise


def test_noise_of_zero_is_allreduce_bitwise(run_learners, laboratory):
    steps = laboratory.global_steps([2, 5, 3, 1, 4, 2], steps=4)

    def learner(world: World) -> tuple[dict[str, Tensor], ...]:
        mine = [units[world.rank :: world.size] for units in steps]
        backends = (AllReduce(bucket_mb=25, world=world), noisy(world, 0.0))
        return tuple(laboratory.train(each, mine, 0.5, torch.optim.AdamW)[1] for each in backends)

    for plain, noiseless in run_learners(3, learner):
        assert all(torch.equal(value, noiseless[name]) for name, value in plain.items())


def test_gradients_are_averaged_over_differently_noisy_weights(run_learners):
    """w <- w - lr mean_i g(w + n_i), the weights coming back bitwise in between, also in a skipped step."""
    x, y = data(2, 3, 4, 5), data(2, 3, 4, 1)

    def learner(world: World) -> list[tuple[Tensor, Tensor, Tensor]]:
        backend = noisy(world, 0.5)
        wrapped, history = prepare(backend), []
        for k in range(3):
            before = weights(wrapped)
            backend.begin_step(4.0, 4.0)
            at = weights(wrapped)
            step(backend, wrapped, x[world.rank, k], y[world.rank, k] * (math.nan if k == 1 else 1.0))
            history.append((before, at, weights(wrapped)))
        assert backend.state_dict() == {"step": 3}
        return history

    for k, ((before, at_0, after), (_, at_1, after_1)) in enumerate(zip(*run_learners(2, learner), strict=True)):
        assert torch.equal(after, after_1)
        assert not torch.equal(at_0, at_1)
        assert not torch.equal(at_0, before)
        gradients = [2 * (x[i, k] @ at - y[i, k, :, 0]) @ x[i, k] for i, at in enumerate((at_0, at_1))]
        expected = before if k == 1 else before - LR * (gradients[0] + gradients[1]) / 2
        torch.testing.assert_close(after, expected, rtol=0 if k == 1 else 1e-12, atol=0 if k == 1 else 1e-12)


def test_noise_is_gaussian_keyed_and_spares_frozen_weights(run_learners):
    def learner(world: World) -> Tensor:
        model = nn.Sequential(nn.Linear(100, 200, bias=False), nn.Linear(3, 5))
        model[1].requires_grad_(False)
        frozen = model[1].weight.detach().clone()
        backend = noisy(world, 0.5)
        backend.attach(torch.optim.SGD(backend.wrap(model).parameters(), lr=LR))
        noise = []
        for start in (0, 1, 0):
            backend.load_state_dict([{"step": start}] * world.size, world.rank, world.size)
            before = model[0].weight.detach().clone()
            backend.begin_step(1.0, 1.0)
            noise.append((model[0].weight - before).detach())
            assert torch.equal(model[1].weight, frozen)
            with backend.updating(apply=False):
                assert torch.equal(model[0].weight, before)
        return torch.stack(noise)

    for noise in (results := run_learners(2, learner)):
        assert noise[0].std().item() == pytest.approx(0.5, rel=0.02)
        assert abs(noise[0].mean().item()) < 0.02
        torch.testing.assert_close(noise[0], noise[2])
        assert abs(torch.corrcoef(noise[:2].flatten(1))[0, 1].item()) < 0.03
    assert abs(torch.corrcoef(torch.stack([noise[0].flatten() for noise in results]))[0, 1].item()) < 0.03


# Moments


@pytest.mark.parametrize("topology", ["ring", "exponential", "random_pairwise"])
@pytest.mark.parametrize("skipped", [None, 0])
def test_moments_are_mixed_by_the_same_matrix_once_all_learners_have_them(run_learners, topology, skipped: int | None):
    """Against AdamW on its own; a learner whose first gradient is bad has no moments before its second step."""
    x, y = data(3, 5, 4, 5), data(3, 5, 4, 1)
    if skipped is not None:
        y[1, skipped] = math.nan

    def learner(world: World) -> Tensor:
        backend = gossip(world, topology, mix_moments=True)
        wrapped, history = prepare(backend, torch.optim.AdamW, weight_decay=0.1), []
        for k in range(5):
            backend.begin_step(4.0, 4.0)
            step(backend, wrapped, x[world.rank, k], y[world.rank, k])
            history.append(weights(wrapped))
        return torch.stack(history)

    actual = torch.stack(run_learners(3, learner), dim=1)
    W = [nn.Parameter(torch.linspace(-1, 1, 5).double()) for _ in range(3)]
    optimizers = [torch.optim.AdamW([w], lr=LR, weight_decay=0.1) for w in W]
    for k in range(5):
        gradients = [2 * (x[i, k] @ w.detach() - y[i, k, :, 0]) @ x[i, k] for i, w in enumerate(W)]
        T = make_topology(topology, seed=1).mixing_matrix(3, k)
        with torch.no_grad():
            mix(T, W)
            for name in ("exp_avg", "exp_avg_sq"):
                if k > (0 if skipped is None else 1):
                    mix(T, [optimizer.state[w][name] for optimizer, w in zip(optimizers, W, strict=True)])
        for w, gradient, optimizer in zip(W, gradients, optimizers, strict=True):
            w.grad = gradient
            if gradient.isfinite().all():
                optimizer.step()
        torch.testing.assert_close(actual[k], torch.stack([w.detach() for w in W]), rtol=1e-10, atol=1e-12)


def mix(T: Tensor, tensors: list[Tensor]) -> None:
    for tensor, mixed in zip(tensors, T @ torch.stack(list(tensors)), strict=True):
        tensor.copy_(mixed)


@pytest.mark.parametrize(("momentum", "refused"), [(0.0, True), (0.9, False)])
def test_an_optimizer_without_moments_is_refused(alone: World, momentum: float, refused: bool):
    backend = gossip(alone, "ring", mix_moments=True)
    wrapped = prepare(backend, momentum=momentum)
    backend.begin_step(1.0, 1.0)
    if not refused:
        step(backend, wrapped, data(1, 5), data(1, 1))
        return
    with pytest.raises(
        ValueError, match=r"backend.mix_moments=true, but the optimizer \(SGD\) keeps no moments"
    ) as caught:
        step(backend, wrapped, data(1, 5), data(1, 1))
    assert line_for_people(caught.value)


def test_moments_wait_for_the_parameter_that_gets_its_gradient_last(run_learners):
    """Of two learners that average all they have: apart by what one step adds, (i + 1) in learner i."""

    def learner(world: World) -> Tensor:
        backend, model = gossip(world, "complete", mix_moments=True), nn.Linear(2, 1)
        optimizer = torch.optim.SGD(backend.wrap(model).parameters(), lr=0.1, momentum=0.9)
        backend.attach(optimizer)
        for k in range(4):
            backend.zero_grad()
            backend.begin_step(1.0, 1.0)
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 1.0 + world.rank)
            if k == 0:
                model.bias.grad = None
            with backend.updating(apply=True):
                optimizer.step()
        return torch.cat([optimizer.state[p]["momentum_buffer"].flatten() for p in model.parameters()])

    first, second = run_learners(2, learner)
    torch.testing.assert_close(second - first, torch.ones(3))
