"""Adam's second moment held while gradients are sparse: what Adam then does, when it is renewed, what is refused."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distributed.errors import UsageError
from distributed.learners.world import World
from distributed.sparse.second_moment import SecondMoment, before_update, held_of
from tests.schemes import SCHEMES

LR, BETAS, EPS = 0.1, (0.8, 0.9), 1e-8
EVERY, BATCHES, WARM_UP = 5, 2, 3
COMPRESSED = ["scalecom", "local_topk", "random_k", "powersgd"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_adam_steps_by_the_moment_that_is_held():
    """Against the formula of its step, with gradients of very different sizes."""
    held, weight = 1 + draw(40).square(), nn.Parameter(draw(40, seed=1))
    optimizer = torch.optim.AdamW([weight], lr=LR, betas=BETAS, eps=EPS, weight_decay=0.0)
    mean = torch.zeros(40, dtype=torch.float64)
    for step in range(1, 6):
        gradient = draw(40, seed=step) * 10.0 ** (step - 3)
        weight.grad, before = gradient.clone(), weight.detach().clone()
        if optimizer.state:
            state = optimizer.state[weight]
            state["exp_avg_sq"].copy_(before_update(held, gradient, BETAS[1], step))
        optimizer.step()
        mean = BETAS[0] * mean + (1 - BETAS[0]) * gradient
        if step > 1:  # the first one made the state
            taken = LR * (mean / (1 - BETAS[0] ** step)) / (held.sqrt() + EPS)
            torch.testing.assert_close(before - weight.detach(), taken, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("held", [0.0, 1e-30, 1.0])
def test_rounding_leaves_a_moment_that_is_not_negative(held: float):
    gradient = torch.full((50,), 1e4) * (1 + draw(50).float())
    found = before_update(torch.full((50,), held), gradient, 0.999, 7)
    assert (found * 0.999 + (1 - 0.999) * gradient.square() >= 0).all()


@pytest.mark.parametrize("word", COMPRESSED)
def test_windows_of_dense_gradients_renew_the_moment_and_nothing_else_does(run_learners: Callable[..., Any], word: str):
    """By two learners whose gradients are known: v is the mean of the squares of their means in the last window."""

    def learn(world: World) -> None:
        settings = {"warmup_steps": WARM_UP, "refresh_moments": EVERY, "refresh_batches": BATCHES}
        backend: Any = SCHEMES[word].build(world, **settings)
        model = backend.wrap(nn.Linear(12, 20, bias=False).double())
        optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, eps=EPS)
        backend.attach(optimizer)
        backend.synchronise(resumed=False)
        held: Tensor | None = None
        for step in range(WARM_UP + 3 * EVERY):
            backend.begin_step(1.0, 1.0)
            backend.zero_grad()
            mine, other = draw(20, 12, seed=2 * step + world.rank), draw(20, 12, seed=2 * step + 1 - world.rank)
            model.weight.grad.copy_(mine)
            finite = backend.reduce_gradients(None).finite
            place = step - WARM_UP
            window = place >= 0 and place % EVERY < BATCHES
            assert torch.allclose(model.weight.grad, (mine + other) / 2) == (step < WARM_UP or window)
            if window and place % EVERY == BATCHES - 1:
                means = [sum(draw(20, 12, seed=2 * (step - back) + each) for each in (0, 1)) / 2 for back in (0, 1)]
                held = held_of((means[0].square() + means[1].square()) / 2)
            with backend.updating(apply=finite):
                optimizer.step()
            if held is not None:
                found = optimizer.state[model.weight]["exp_avg_sq"] / (1 - BETAS[1] ** (step + 1))
                torch.testing.assert_close(found, held, rtol=1e-6, atol=1e-4)
        backend.close()

    run_learners(2, learn)


def stepping(rule: SecondMoment, gradients: list[Tensor | None]) -> list[Tensor]:
    """How far AdamW moves in each step, in learning rates; None: a bad step, which is skipped."""
    weight = nn.Parameter(torch.zeros(6, dtype=torch.float64))
    optimizer, moved = torch.optim.AdamW([weight], lr=1.0, betas=(0.9, 0.98), weight_decay=0.0), []
    for step, gradient in enumerate(gradients):
        before = weight.detach().clone()
        if gradient is not None:
            weight.grad = gradient.clone()
            if rule.sends_dense(step):
                rule.observe({"weight": weight}, step)
            rule.hold({"weight": weight}, optimizer)
            optimizer.step()
        moved.append((weight.detach() - before).abs())
    return moved


def test_entries_that_a_window_does_not_meet_keep_adams_own_rule():
    """The last three have no gradient in the window, and as large ones as the others later."""
    seen = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    gradients = [0.01 * seen] * 2 + [torch.full((6,), 0.01, dtype=torch.float64)] * 6
    moved = stepping(SecondMoment(10, 2), gradients)
    assert max(each.max() for each in moved) < 3  # 270 learning rates if v were 0 there


def test_no_second_moment_is_far_below_those_of_its_tensor():
    held = held_of(torch.tensor([1.0, 3.0, 1e-12, 0.0]))
    torch.testing.assert_close(held, torch.tensor([1.0, 3.0, 0.04 / 3, 0.0]))


@pytest.mark.parametrize("bad", [0, 1])
def test_a_bad_step_in_a_window_does_not_move_later_windows(bad: int):
    rule, gradients = SecondMoment(4, 2), [torch.full((6,), 1.0 + step, dtype=torch.float64) for step in range(6)]
    stepping(rule, [None if step == bad else gradient for step, gradient in enumerate(gradients)])
    torch.testing.assert_close(rule.state_dict()["held"]["weight"], (gradients[4].square() + gradients[5].square()) / 2)


def test_a_window_under_way_goes_on_after_a_resume_only_under_the_same_windows():
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.ones(3)
    rule = SecondMoment(8, 4)
    rule.observe({"weight": weight}, 0)
    for batches, seen in ((4, 1), (2, 0)):
        again = SecondMoment(8, batches)
        again.load_state_dict(rule.state_dict(), {"weight": weight})
        assert again.state_dict()["seen"] == len(again.state_dict()["sums"]) == seen


@pytest.mark.parametrize("word", COMPRESSED)
def test_an_optimizer_without_second_moments_is_refused(alone: World, word: str):
    backend: Any = SCHEMES[word].build(alone, refresh_moments=EVERY, refresh_batches=BATCHES)
    model = backend.wrap(nn.Linear(12, 20))
    with pytest.raises(UsageError, match=r"backend.refresh_moments=5 .* the optimizer is SGD; set optimizer=adamw"):
        backend.attach(torch.optim.SGD(model.parameters(), lr=1.0))


def test_a_window_as_long_as_its_period_is_refused(alone: World):
    with pytest.raises(UsageError, match=r"backend.refresh_batches=4 dense steps in every 4 leave none"):
        SCHEMES["scalecom"].build(alone, refresh_moments=4, refresh_batches=4)


def test_the_payload_grows_by_the_share_of_dense_steps(run_learners: Callable[..., list[float]]):
    def learn(world: World) -> float:
        settings = {"rate": 20, "refresh_moments": 10, "refresh_batches": 1}
        backend: Any = SCHEMES["scalecom"].build(world, **settings)
        model = backend.wrap(nn.Linear(40, 40, bias=False))
        optimizer = torch.optim.AdamW(model.parameters())
        backend.attach(optimizer)
        for _ in range(20):
            backend.begin_step(1.0, 1.0)
            model.weight.grad.fill_(1.0)
            with backend.updating(apply=backend.reduce_gradients(None).finite):
                optimizer.step()
        return backend.metrics()["comm/compression_ratio"]

    sparse_bytes = 4 * math.ceil(1600 / 20) + 56  # values, and offsets of five bits
    for ratio in run_learners(2, learn):
        assert ratio == pytest.approx(20 * 6400 / (2 * 6400 + 18 * sparse_bytes), rel=0.05)
