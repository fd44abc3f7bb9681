"""PowerSGD: exactness, torch's own as a reference, what is not compressed, resuming with other settings."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

from distributed.learners.world import World
from distributed.schemes.powersgd import PowerSgd, orthonormal
from tests.schemes import SCHEMES


def power_sgd(world: World, **options: Any) -> PowerSgd:
    """Of rank 2, on every matrix, unless told otherwise."""
    return SCHEMES["powersgd"].build(world, **{"rank": 2, "min_rate": 1.0} | options)


def matrices(backend: PowerSgd) -> dict[str, nn.Parameter]:
    return {name: p for name, p in backend.model.named_parameters() if p.dim() == 2}


def test_an_orthonormal_basis_spans_the_same() -> None:
    matrix = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = orthonormal(matrix)
    torch.testing.assert_close(basis.T @ basis, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(basis @ (basis.T @ matrix), matrix)


def test_powersgd_is_exact_where_the_mean_has_the_rank(run_learners, by_hand) -> None:
    """With three learners whose gradients of rank 1 add up to rank 2; factors are warm from the first step on."""

    def learner(world: World) -> None:
        backend: Any = by_hand.prepared(power_sgd(world))
        generator = torch.Generator().manual_seed(5)
        basis = {n: torch.randn(sum(p.shape), 2, generator=generator).double() for n, p in matrices(backend).items()}
        own = torch.Generator().manual_seed(world.rank)
        for _ in range(3):
            values = [p.detach().clone() for p in backend.model.parameters()]
            for (name, p), place in zip(matrices(backend).items(), (0, 2), strict=True):
                left, right = basis[name].split(list(p.shape))
                values[place] = left @ torch.diag(torch.randn(2, generator=own).double()) @ right.T
            by_hand.step(backend, values)
            for (_, p), place in zip(matrices(backend).items(), (0, 2), strict=True):
                mean = world.all_reduce_sum(values[place].contiguous()).div_(3)
                torch.testing.assert_close(p.grad, mean, rtol=1e-9, atol=1e-9)

    run_learners(3, learner)


def test_powersgd_sends_groups_that_must_not_be_compressed_whole(run_learners, by_hand) -> None:
    def learner(world: World) -> None:
        backend: Any = power_sgd(world)
        first, *others = backend.wrap(by_hand.layers()).parameters()
        backend.attach(torch.optim.SGD([{"params": [first], "compress": False}, {"params": others}], lr=1.0))
        assert set(backend.factors) == {"1.weight"}
        for number in range(2):
            means = [world.all_reduce_sum(value).div_(3) for value in by_hand.draw(number, world.rank)]
            by_hand.step(backend, by_hand.draw(number, world.rank))
            torch.testing.assert_close(first.grad, means[0], rtol=1e-12, atol=1e-14)
            assert not torch.allclose(others[1].grad, means[2], rtol=0.1)

    run_learners(3, learner)


@pytest.mark.parametrize(
    ("options", "whole"),
    [
        ({"rank": 1}, False),  # other factors
        ({"rank": 4}, False),
        ({"min_rate": 3.0}, True),  # the second matrix is no longer worth it
        ({"compress": False}, True),
    ],
)
def test_powersgd_resumes_with_other_settings_and_sends_what_is_owed(
    run_learners, by_hand, options: dict[str, Any], whole: bool
) -> None:
    """There and back; what was given and not applied stays the mean of the memories."""

    def make(world: World, compress: bool = True, **other: Any) -> Any:
        backend: Any = power_sgd(world, **other)
        *first, last, bias = backend.wrap(by_hand.layers()).parameters()
        groups = [{"params": [*first, bias]}, {"params": [last], "compress": compress}]
        backend.attach(torch.optim.SGD(groups, lr=1.0))
        return backend

    def learner(world: World) -> tuple[Tensor, Tensor, Tensor]:
        backend = make(world)
        given, applied = torch.zeros_like(backend.memory[0]), torch.zeros_like(backend.memory[0])
        for resume, other in enumerate([{}, options, {}]):
            state, backend = copy.deepcopy(backend.state_dict()), make(world, **other)
            backend.load_state_dict([state] * world.size, world.rank, world.size)
            for number in range(3):
                _, own, common = by_hand.step(backend, by_hand.draw(10 * resume + number, world.rank))
                given += own
                applied += common
            owed = backend.flat.named_views(backend.memory)["1.weight"]
            assert bool(owed.any()) != (whole and bool(other))
        return given, applied, backend.memory[0]

    results = run_learners(3, learner)
    given, _, owed = (torch.stack(each).mean(0) for each in zip(*results, strict=True))
    torch.testing.assert_close(given - results[0][1], owed, rtol=1e-10, atol=1e-10)
    assert all(torch.equal(applied, results[0][1]) for _, applied, _ in results)


def test_powersgd_learns_after_steps_without_a_gradient(run_learners, by_hand) -> None:
    """Even in one corner, where the first rows and columns, to which an iteration from zero would turn, have nothing."""

    def learner(world: World) -> None:
        backend: Any = by_hand.prepared(power_sgd(world))
        factors = {name: factor.clone() for name, factor in backend.factors.items()}
        for _ in range(3):
            by_hand.step(backend, [torch.zeros_like(p) for p in backend.model.parameters()])
        assert all(torch.equal(backend.factors[name], old) for name, old in factors.items())
        values = [torch.zeros_like(p) for p in backend.model.parameters()]
        values[0][-1, -1] = values[2][-1, -1] = 1.0 + world.rank
        for _ in range(2):
            by_hand.step(backend, values)
            for p, value in zip(backend.model.parameters(), values, strict=True):
                torch.testing.assert_close(p.grad, value / (1.0 + world.rank) * 2.0)

    run_learners(3, learner)


class Bucket:
    """All gradients in one, as DistributedDataParallel hands them to a hook."""

    def __init__(self, values: list[Tensor]) -> None:
        self.flat = torch.cat([value.flatten() for value in values])
        self.views = [
            part.view_as(value)
            for part, value in zip(self.flat.split([value.numel() for value in values]), values, strict=True)
        ]

    def buffer(self) -> Tensor:
        return self.flat

    def index(self) -> int:
        return 0

    def gradients(self) -> list[Tensor]:
        return self.views

    def is_last(self) -> bool:
        return True


# What torch's hook hangs on a future holds the group too. A thread of gloo's that lets the last reference go destroys the
# group, waits for itself and aborts the process: the groups given to that hook are kept.
GIVEN_TO_HOOKS: list[ProcessGroup] = []


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_powersgd_with_one_bucket_is_torch_s_hook(run_learners, by_hand, rank: int) -> None:
    """From the same first factors, over steps with error feedback and warm start, to 1e-5."""

    def learner(world: World) -> None:
        backend: Any = power_sgd(world, rank=rank)
        backend.attach(torch.optim.SGD(backend.wrap(by_hand.layers().float()).parameters(), lr=1.0))
        GIVEN_TO_HOOKS.append(world.joined)
        state = PowerSGDState(world.joined, rank, start_powerSGD_iter=2, min_compression_rate=1)
        state.iter = 2  # what comes before is dense
        state.q_memory_dict[0] = torch.cat([factor.flatten() for factor in backend.factors.values()])
        state.p_memory_dict[0] = torch.zeros(sum(rank * p.shape[0] for p in matrices(backend).values()))
        state.error_dict[0] = torch.zeros(sum(p.numel() for p in backend.model.parameters()))
        for number in range(6):
            values = [value.float() for value in by_hand.draw(number, world.rank)]
            bucket: Any = Bucket(values)
            powerSGD_hook(state, bucket).wait()
            by_hand.step(backend, values)
            for parameter, theirs in zip(backend.model.parameters(), bucket.views, strict=True):
                torch.testing.assert_close(parameter.grad, theirs, rtol=1e-5, atol=1e-5)

    run_learners(2, learner)
