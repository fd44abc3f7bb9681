"""Laws of ScaleCom: what is conserved, what it equals, that learners agree."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distributed.learners.world import World
from distributed.schemes.scalecom import ScaleCom
from scripts.composition.backends import arguments_of

SIZES = [(7, 9), (5,), (11, 13), (33,)]  # no multiple of any rate here


class Vectors(nn.Module):
    """Parameters of which the tests set the gradients by hand."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.values = nn.ParameterList([nn.Parameter(torch.zeros(size, dtype=dtype)) for size in SIZES])


class Recorded(ScaleCom):
    """Adds up what it sends and what it applies, and keeps the last selection."""

    def wrap(self, model: nn.Module) -> nn.Module:
        super().wrap(model)
        self.given, self.sent, self.applied = ([torch.zeros_like(g) for g in self.flat.flat_grad] for _ in range(3))
        return model

    def _agree(self, indices: Any, message: Tensor, usable: bool) -> Any:
        self.indices, own = indices, message.clone()
        agreed = super()._agree(indices, message, usable)
        if agreed is not None:
            for (segment, index, _), value in zip(agreed, own.split([s.chosen for s in self.segments]), strict=True):
                segment.of(self.sent)[index] += value.to(self.sent[0].dtype)
        return agreed


def make(world: World, dtype: torch.dtype = torch.float64, **options: Any) -> Recorded:
    """A backend on ``Vectors``, ready for steps."""
    backend = Recorded(**arguments_of("scalecom", **{"rate": 10} | options), world=world)
    backend.attach(torch.optim.SGD(backend.wrap(Vectors(dtype)).parameters(), lr=1.0))
    return backend


def gradients(step: int, rank: int) -> list[Tensor]:
    """In the order of the parameters; a common direction and noise of the learner's own."""
    both = (torch.Generator().manual_seed(seed) for seed in (1, 1000 * step + rank + 2))
    common, own = ([torch.randn(size, generator=generator) for size in SIZES] for generator in both)
    return [0.3 * c + o for c, o in zip(common, own, strict=True)]


def laid_out(backend: ScaleCom, values: Sequence[Tensor]) -> Tensor:
    """Gradients as they lie in the flat buffer."""
    flat = torch.zeros_like(backend.flat.flat_grad[0])
    views = backend.flat.named_views([flat])
    for index, value in enumerate(values):
        views[f"values.{index}"].copy_(value)
    return flat


def step(backend: Recorded, values: Sequence[Tensor], max_norm: float | None = None) -> bool:
    """One step with these gradients; whether it was applied. The gradients stay to be looked at."""
    backend.begin_step(1.0, 1.0)
    backend.zero_grad()
    for parameter, value in zip(backend.model.parameters(), values, strict=True):
        parameter.grad.copy_(value)
    given = [gradient.clone() for gradient in backend.flat.flat_grad]
    report = backend.reduce_gradients(max_norm)
    if report.finite:
        for total, gradient in zip(backend.given + backend.applied, given + backend.flat.flat_grad, strict=True):
            total.add_(gradient)
    with backend.updating(apply=report.finite):
        pass
    return report.finite


@pytest.mark.parametrize(
    ("beta", "values", "dtype", "rounding"),
    [
        (1.0, "full", torch.float64, 1e-10),
        (0.1, "full", torch.float64, 1e-10),
        (0.1, "full", torch.float32, 1e-3),
        (1.0, "bfloat16", torch.float64, 1e-10),
    ],
)
def test_gradients_beyond_what_was_sent_are_memory_over_beta(
    run_learners, beta: float, values: str, dtype: torch.dtype, rounding: float
) -> None:
    """Over 1,000 steps, on every learner; and what is applied is what was sent, on average."""

    def learner(world: World) -> tuple[Tensor, Tensor]:
        backend = make(world, dtype, beta=beta, values=values, rates=[("values.0", 3), ("values.3", 50)])
        for number in range(1000):
            assert step(backend, gradients(number, world.rank))
        (given,), (sent,), (memory,) = backend.given, backend.sent, backend.memory
        torch.testing.assert_close(given - sent, memory / beta, rtol=rounding, atol=rounding)
        assert memory.abs().max() > 0.1
        return sent, backend.applied[0]

    results = run_learners(2, learner)
    mean = torch.stack([sent for sent, _ in results]).mean(0)
    if values == "full":
        torch.testing.assert_close(results[0][1], mean, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("size", [1, 3])
def test_rate_1_and_warm_up_are_dense_averages_bitwise(run_learners, size: int) -> None:
    def learner(world: World) -> None:
        backends = [
            make(world, torch.float32, rate=1, beta=0.3),
            make(world, torch.float32, rates=[("*", 1)]),
            make(world, torch.float32, rate=1, warmup_steps=5),
        ]
        for number in range(5):
            for backend in backends:
                step(backend, gradients(number, world.rank))
            dense = laid_out(backends[0], gradients(number, world.rank))
            world.all_reduce_sum(dense).div_(world.size)
            for backend in backends:
                assert torch.equal(backend.flat.flat_grad[0], dense)
                assert not backend.memory[0].any()

    run_learners(size, learner)


def test_the_mean_of_selections_is_the_selection_of_the_mean_on_all_ranks(run_learners) -> None:
    """With the leader's positions, in turn; all others are zero."""

    def learner(world: World) -> list[tuple[Tensor, Tensor, Any]]:
        backend, steps = make(world, beta=0.5), []
        for number in range(7):
            memory = backend.memory[0].clone()
            step(backend, gradients(number, world.rank))
            given = laid_out(backend, gradients(number, world.rank))
            steps.append((memory + given, backend.flat.flat_grad[0].clone(), backend.segments))
        return steps

    by_learner = run_learners(3, learner)
    for number in range(7):
        selected = torch.zeros_like(by_learner[0][number][0])
        mean = torch.stack([steps[number][0] for steps in by_learner]).mean(0)
        leader = by_learner[number % 3][number][0]
        for segment in by_learner[0][number][2]:
            part, target = segment.of([leader]).abs(), segment.of([selected])
            for start in range(0, segment.length, segment.rate):
                chosen = start + int(part[start : start + segment.rate].argmax())
                target[chosen] = segment.of([mean])[chosen]
        for steps in by_learner:
            torch.testing.assert_close(steps[number][1], selected, rtol=1e-12, atol=1e-14)
            assert torch.equal(steps[number][1], by_learner[0][number][1])


@pytest.mark.parametrize("beta", [1.0, 0.2])
def test_one_learner_is_error_feedback_in_one_process(alone: World, beta: float) -> None:
    """Against the paper's equation on vectors padded to whole chunks."""
    backend = make(alone, beta=beta, rate=7)
    memories = [torch.zeros(size, dtype=torch.float64) for size in SIZES]
    order = list(backend.flat.named_views(backend.memory))
    assert order == ["values.1", "values.3", "values.0", "values.2"]  # dense ones first
    for number in range(20):
        p = [m + g.double() for m, g in zip(memories, gradients(number, 0), strict=True)]
        gap = torch.zeros(1, dtype=torch.float64)  # matrices begin at multiples of eight elements
        flat = torch.cat([p[0].flatten(), gap, p[2].flatten()])
        chunks = nn.functional.pad(flat, (0, -len(flat) % 7)).view(-1, 7)
        sparse = torch.zeros_like(chunks).scatter(1, (at := chunks.abs().argmax(1, keepdim=True)), chunks.gather(1, at))
        first, second = (
            part.view(size)
            for part, size in zip(sparse.flatten()[:207].split([63, 1, 143])[::2], SIZES[::2], strict=True)
        )
        sent = [first, p[1], second, p[3]]
        memories = [(1 - beta) * m + beta * (q - s) for m, q, s in zip(memories, p, sent, strict=True)]
        step(backend, gradients(number, 0))
        for parameter, expected in zip(backend.model.parameters(), sent, strict=True):
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("warmup_steps", [0, 9])
def test_a_bad_gradient_of_one_learner_leaves_all_memories_as_they_were(
    run_learners, bad: float, warmup_steps: int
) -> None:
    """Whether the leader has it or another one; all find the step bad, and go on with the same leaders."""

    def learner(world: World) -> Tensor:
        backend = make(world, warmup_steps=warmup_steps)
        for number in range(6):
            values = gradients(number, world.rank)
            if number in (2, 3) and world.rank == 2:  # the leader at 2
                values[2][4, 4] = bad
            before = backend.memory[0].clone()
            assert step(backend, values) == (number not in (2, 3))
            assert torch.equal(backend.memory[0], before) == (number in (2, 3) or warmup_steps > 0)
        assert backend.step == 6
        return backend.applied[0]

    results = run_learners(3, learner)
    assert all(torch.equal(each, results[0]) for each in results)


@pytest.mark.parametrize("values", ["full", "bfloat16"])
def test_a_resume_is_bitwise_and_other_learners_owe_the_same(run_learners, values: str) -> None:
    """Memories differ between learners. Two that go on after three begin with what those owe on average."""
    options = {"beta": 0.4, "values": values}

    def whole(world: World) -> tuple[dict[str, Any], Tensor]:
        backend = make(world, **options)
        for number in range(4):
            step(backend, gradients(number, world.rank))
        state = backend.state_dict() | {"memory": {k: v.clone() for k, v in backend.state_dict()["memory"].items()}}
        for number in range(4, 9):
            step(backend, gradients(number, world.rank))
        return state, torch.cat([backend.memory[0], backend.flat.flat_grad[0]])

    results = run_learners(3, whole)
    states = [state for state, _ in results]

    def resumed(world: World) -> Tensor:
        backend = make(world, **options)
        backend.load_state_dict(states, world.rank, world.size)
        owed = backend.memory[0].clone()
        for number in range(4, 9):
            step(backend, gradients(number, world.rank))
        return owed if world.size == 2 else torch.cat([backend.memory[0], backend.flat.flat_grad[0]])

    for end, (_, expected) in zip(run_learners(3, resumed), results, strict=True):
        assert torch.equal(end, expected)
    name = "values.2"
    mean = torch.stack([state["memory"][name] for state in states]).mean(0)
    for owed in run_learners(2, resumed):
        assert any(torch.allclose(each, mean.flatten(), rtol=1e-12) for each in owed.unfold(0, mean.numel(), 1))


def test_groups_stay_uncompressed_whatever_groups_a_checkpoint_had(alone: World) -> None:
    """Loading an optimizer's state brings the flags of old groups, and a freeze lays out anew."""
    backend = make(alone)
    first, *others = backend.model.parameters()
    groups = [{"params": [first]}, {"params": others}]
    old = torch.optim.SGD([group | {"compress": True} for group in groups], lr=1.0).state_dict()
    backend.attach(torch.optim.SGD([groups[0] | {"compress": False}, groups[1]], lr=1.0))
    backend.optimizer.load_state_dict(old)
    others[0].requires_grad_(False)
    backend.begin_step(1.0, 1.0)
    assert backend.rates_found == {"values.0": 1, "values.2": 10, "values.3": 1}


def test_groups_that_must_not_be_compressed_are_sent_whole(alone: World) -> None:
    backend = make(alone)
    first, *others = backend.model.parameters()
    backend.attach(torch.optim.SGD([{"params": [first], "compress": False}, {"params": others}], lr=1.0))
    backend.given, backend.applied, backend.sent = ([torch.zeros_like(backend.memory[0])] for _ in range(3))
    step(backend, gradients(0, 0))
    assert torch.equal(first.grad, gradients(0, 0)[0].double())
    assert int(others[1].grad.count_nonzero()) == 15  # of 143 entries
