"""ScaleCom and its comparators: conservation, exactness, torch's PowerSGD as a reference, bad steps, traffic."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

from distributed.compressed import CompressedBackend
from distributed.half_allreduce import HalfAllReduce
from distributed.launch import World
from distributed.local_topk import LocalTopK
from distributed.powersgd import PowerSgd, orthonormal
from distributed.random_k import RandomK, random_positions
from distributed.scalecom import ScaleCom
from distributed.segments import Segment

SPARSE = {"rate": 10, "rates": [], "values": "full", "beta": 0.5, "warmup_steps": 0}
MAKE: Mapping[str, Callable[[World], CompressedBackend]] = {
    "scalecom": lambda world: ScaleCom(**SPARSE, overlap=False, bucket_mb=1, world=world),
    "local_topk": lambda world: LocalTopK(**SPARSE, world=world),
    "random_k": lambda world: RandomK(**SPARSE, seed=1, world=world),
    "powersgd": lambda world: PowerSgd(rank=2, min_rate=1.0, warmup_steps=0, seed=1, world=world),
}


def layers() -> nn.Module:
    """Two matrices of different shapes, and biases."""
    return nn.Sequential(nn.Linear(12, 20), nn.Linear(20, 7)).double()


def prepared(backend: CompressedBackend) -> CompressedBackend:
    backend.attach(torch.optim.SGD(backend.wrap(layers()).parameters(), lr=1.0))
    return backend


def draw(step: int, rank: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 * step + rank)
    return [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in layers().parameters()]


def step(backend: CompressedBackend, values: list[Tensor]) -> tuple[bool, Tensor, Tensor]:
    """Whether it was applied, what was given and what came of it, both as they lie in the flat buffer."""
    backend.begin_step(1.0)
    backend.zero_grad()
    for parameter, value in zip(backend.model.parameters(), values, strict=True):
        parameter.grad.copy_(value)
    given = backend.flat.flat_grad[0].clone()
    finite = backend.reduce_gradients(None).finite
    with backend.updating(apply=finite):
        pass
    return finite, given, backend.flat.flat_grad[0].clone()


@pytest.mark.parametrize("scheme", MAKE)
def test_what_learners_have_not_sent_together_is_the_mean_of_their_memories(run_learners, scheme: str) -> None:
    """Over beta; and all of them apply the same, bitwise."""

    def learner(world: World) -> tuple[Tensor, Tensor, Tensor]:
        backend: Any = prepared(MAKE[scheme](world))
        given, applied = torch.zeros_like(backend.memory[0]), torch.zeros_like(backend.memory[0])
        for number in range(60):
            _, own, common = step(backend, draw(number, world.rank))
            given += own
            applied += common
        return given, applied, backend.memory[0] / (1.0 if scheme == "powersgd" else SPARSE["beta"])

    results = run_learners(3, learner)
    given, _, owed = (torch.stack(each).mean(0) for each in zip(*results, strict=True))
    torch.testing.assert_close(given - results[0][1], owed, rtol=1e-10, atol=1e-10)
    assert owed.abs().max() > 0.1
    assert all(torch.equal(applied, results[0][1]) for _, applied, _ in results)


@pytest.mark.parametrize("scheme", MAKE)
def test_a_bad_gradient_of_one_learner_changes_nobody_s_state(run_learners, scheme: str) -> None:
    def learner(world: World) -> None:
        backend: Any = prepared(MAKE[scheme](world))
        for number in range(4):
            values = draw(number, world.rank)
            if number == 2 and world.rank == 1:
                values[0][3, 3] = math.nan
            memory = backend.memory[0].clone()
            factors = {name: factor.clone() for name, factor in getattr(backend, "factors", {}).items()}
            finite, _, _ = step(backend, values)
            assert finite == (number != 2)
            assert torch.equal(backend.memory[0], memory) == (number == 2)
            assert all(torch.equal(backend.factors[name], old) == (number == 2) for name, old in factors.items())

    run_learners(3, learner)


def test_random_positions_are_one_of_every_chunk_and_evenly_spread() -> None:
    segment, generator = Segment(0, 0, 23, 10), torch.Generator().manual_seed(0)
    drawn = torch.stack([random_positions(segment, generator) for _ in range(3000)])
    assert (drawn // 10 == torch.arange(3)).all()
    counts = drawn.flatten().bincount(minlength=23)
    expected = torch.tensor([300.0] * 20 + [1000.0] * 3)
    assert ((counts - expected).abs() < 5 * expected.sqrt()).all()


@pytest.mark.parametrize(
    ("scheme", "overlap"), [("scalecom", False), ("scalecom", True), ("local_topk", False), ("random_k", False)]
)
def test_means_of_what_travels_in_bf16_are_not_rounded_to_it(run_learners, scheme: str, overlap: bool) -> None:
    """A third of one, in fp32."""

    def learner(world: World) -> None:
        backend: Any = MAKE[scheme](world)
        backend.values, backend.overlap = "bfloat16", overlap
        model = backend.wrap(layers().float())
        backend.attach(torch.optim.SGD(model.parameters(), lr=1.0))
        backend.begin_step(1.0)
        (sum(parameter.sum() for parameter in model.parameters()) * float(world.rank == 0)).backward()
        assert backend.reduce_gradients(None).finite
        applied = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        assert torch.equal(applied.unique(), torch.tensor([0.0, 1.0]) / 3)
        backend.close()

    run_learners(3, learner)


@pytest.mark.parametrize("scheme", MAKE)
def test_parameters_without_elements_do_no_harm(run_learners, scheme: str) -> None:
    """Where they would be all that is compressed, too."""

    def learner(world: World) -> None:
        backend = MAKE[scheme](world)
        model = nn.ParameterList([nn.Parameter(torch.zeros(shape)) for shape in [(0, 3), (5,)]])
        backend.attach(torch.optim.SGD(backend.wrap(model).parameters(), lr=1.0))
        backend.begin_step(1.0)
        model[1].grad.fill_(1.0)
        assert backend.reduce_gradients(None).finite
        assert torch.equal(model[1].grad, torch.ones(5))

    run_learners(2, learner)


def test_local_top_k_applies_the_sum_of_what_learners_choose_themselves(run_learners) -> None:
    def learner(world: World) -> tuple[Tensor, Tensor, list[Segment]]:
        backend: Any = prepared(MAKE["local_topk"](world))
        _, given, applied = step(backend, draw(0, world.rank))
        return given, applied, backend.segments

    results = run_learners(3, learner)
    expected = torch.zeros_like(results[0][0])
    for given, _, segments in results:
        for segment in segments:
            part, target = segment.of([given]), segment.of([expected])
            for start in range(0, segment.length, segment.rate):
                at = start + int(part[start : start + segment.rate].abs().argmax())
                target[at] += part[at] / 3
    torch.testing.assert_close(results[0][1], expected, rtol=1e-12, atol=1e-14)


def test_powersgd_is_exact_where_the_mean_has_the_rank(run_learners) -> None:
    """With three learners whose gradients of rank 1 add up to rank 2; factors are warm from the first step on."""

    def learner(world: World) -> None:
        backend: Any = prepared(MAKE["powersgd"](world))
        generator = torch.Generator().manual_seed(5)
        basis = {n: torch.randn(sum(p.shape), 2, generator=generator).double() for n, p in matrices(backend).items()}
        own = torch.Generator().manual_seed(world.rank)
        for _ in range(3):
            values = [p.detach().clone() for p in backend.model.parameters()]
            for (name, p), place in zip(matrices(backend).items(), (0, 2), strict=True):
                left, right = basis[name].split(list(p.shape))
                values[place] = left @ torch.diag(torch.randn(2, generator=own).double()) @ right.T
            step(backend, values)
            for (_, p), place in zip(matrices(backend).items(), (0, 2), strict=True):
                mean = world.all_reduce_sum(values[place].contiguous()).div_(3)
                torch.testing.assert_close(p.grad, mean, rtol=1e-9, atol=1e-9)

    run_learners(3, learner)


def test_powersgd_sends_groups_that_must_not_be_compressed_whole(run_learners) -> None:
    def learner(world: World) -> None:
        backend: Any = PowerSgd(rank=2, min_rate=1.0, warmup_steps=0, seed=1, world=world)
        first, *others = backend.wrap(layers()).parameters()
        backend.attach(torch.optim.SGD([{"params": [first], "compress": False}, {"params": others}], lr=1.0))
        assert set(backend.factors) == {"1.weight"}
        for number in range(2):
            means = [world.all_reduce_sum(value).div_(3) for value in draw(number, world.rank)]
            step(backend, draw(number, world.rank))
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
    run_learners, options: dict[str, Any], whole: bool
) -> None:
    """There and back; what was given and not applied stays the mean of the memories."""
    settings = {"rank": 2, "min_rate": 1.0}

    def make(world: World, compress: bool = True, **other: Any) -> Any:
        backend = PowerSgd(**settings | other, warmup_steps=0, seed=1, world=world)
        *first, last, bias = backend.wrap(layers()).parameters()
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
                _, own, common = step(backend, draw(10 * resume + number, world.rank))
                given += own
                applied += common
            owed = backend.flat.named_views(backend.memory)["1.weight"]
            assert bool(owed.any()) != (whole and bool(other))
        return given, applied, backend.memory[0]

    results = run_learners(3, learner)
    given, _, owed = (torch.stack(each).mean(0) for each in zip(*results, strict=True))
    torch.testing.assert_close(given - results[0][1], owed, rtol=1e-10, atol=1e-10)
    assert all(torch.equal(applied, results[0][1]) for _, applied, _ in results)


@pytest.mark.parametrize("scheme", MAKE)
def test_a_parameter_that_is_frozen_for_a_while_is_not_sent_and_keeps_what_it_owes(run_learners, scheme: str) -> None:
    def learner(world: World) -> tuple[dict[str, Tensor], ...]:
        backend: Any = prepared(MAKE[scheme](world))
        frozen = backend.model[0].weight
        given, applied = ({n: torch.zeros_like(p) for n, p in backend.model.named_parameters()} for _ in range(2))
        payloads = []
        for number in range(9):
            frozen.requires_grad_(number // 3 != 1)
            backend.exchange.take_payload()
            values = draw(number, world.rank)
            backend.zero_grad()
            backend.begin_step(1.0)
            for (name, p), value in zip(backend.model.named_parameters(), values, strict=True):
                if p.requires_grad:
                    p.grad.copy_(value)
                    given[name] += value
            owed = backend.flat.named_views(backend.memory)["0.weight"].clone()
            assert backend.reduce_gradients(None).finite
            payloads.append(backend.exchange.payload.total)
            for name, p in backend.model.named_parameters():
                if p.requires_grad:
                    applied[name] += p.grad
            with backend.updating(apply=True):
                backend.zero_grad()
            kept = backend.flat.named_views(backend.memory)["0.weight"]
            assert torch.equal(kept, owed) == (number // 3 == 1)
        assert payloads[0] == payloads[8] > payloads[4]
        memory = backend.flat.named_views(backend.memory)
        return given, applied, {n: m / (1.0 if scheme == "powersgd" else SPARSE["beta"]) for n, m in memory.items()}

    results = run_learners(3, learner)
    for name in results[0][0]:
        given, applied, owed = (torch.stack([each[kind][name] for each in results]).mean(0) for kind in range(3))
        torch.testing.assert_close(given - applied, owed, rtol=1e-10, atol=1e-10)


def test_powersgd_learns_after_steps_without_a_gradient(run_learners) -> None:
    """Even in one corner, where the first rows and columns, to which an iteration from zero would turn, have nothing."""

    def learner(world: World) -> None:
        backend: Any = prepared(MAKE["powersgd"](world))
        factors = {name: factor.clone() for name, factor in backend.factors.items()}
        for _ in range(3):
            step(backend, [torch.zeros_like(p) for p in backend.model.parameters()])
        assert all(torch.equal(backend.factors[name], old) for name, old in factors.items())
        values = [torch.zeros_like(p) for p in backend.model.parameters()]
        values[0][-1, -1] = values[2][-1, -1] = 1.0 + world.rank
        for _ in range(2):
            step(backend, values)
            for p, value in zip(backend.model.parameters(), values, strict=True):
                torch.testing.assert_close(p.grad, value / (1.0 + world.rank) * 2.0)

    run_learners(3, learner)


def matrices(backend: CompressedBackend) -> dict[str, nn.Parameter]:
    return {name: p for name, p in backend.model.named_parameters() if p.dim() == 2}


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


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_powersgd_with_one_bucket_is_torch_s_hook(run_learners, rank: int) -> None:
    """From the same first factors, over steps with error feedback and warm start, to 1e-5."""

    def learner(world: World) -> None:
        backend: Any = PowerSgd(rank=rank, min_rate=1.0, warmup_steps=0, seed=1, world=world)
        backend.attach(torch.optim.SGD(backend.wrap(layers().float()).parameters(), lr=1.0))
        state = PowerSGDState(world.joined, rank, start_powerSGD_iter=2, min_compression_rate=1)
        state.iter = 2  # what comes before is dense
        state.q_memory_dict[0] = torch.cat([factor.flatten() for factor in backend.factors.values()])
        state.p_memory_dict[0] = torch.zeros(sum(rank * p.shape[0] for p in matrices(backend).values()))
        state.error_dict[0] = torch.zeros(sum(p.numel() for p in backend.model.parameters()))
        for number in range(6):
            values = [value.float() for value in draw(number, world.rank)]
            bucket: Any = Bucket(values)
            powerSGD_hook(state, bucket).wait()
            step(backend, values)
            for parameter, theirs in zip(backend.model.parameters(), bucket.views, strict=True):
                torch.testing.assert_close(parameter.grad, theirs, rtol=1e-5, atol=1e-5)

    run_learners(2, learner)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_sends_half_the_bytes_and_averages_to_its_precision(run_learners, dtype: str) -> None:
    def learner(world: World) -> tuple[Tensor, Tensor]:
        backend = HalfAllReduce(dtype=dtype, world=world)
        backend.attach(torch.optim.SGD(backend.wrap(layers().float()).parameters(), lr=1.0))
        finite, given, applied = step(backend, draw(0, world.rank))
        assert finite
        assert backend.exchange.payload.total == given.nbytes // 2
        values = draw(1, world.rank)
        if world.rank == 1:
            values[1][0] = math.inf
        assert not step(backend, values)[0]
        if dtype == "float16":
            assert not step(backend, [1e6 * value for value in draw(2, world.rank)])[0]
        return given, applied

    results = run_learners(3, learner)
    mean = torch.stack([given for given, _ in results]).mean(0)
    tolerance = 2e-3 if dtype == "float16" else 2e-2
    assert all(torch.equal(applied, results[0][1]) for _, applied in results)
    torch.testing.assert_close(results[0][1], mean, rtol=tolerance, atol=tolerance)


def test_an_orthonormal_basis_spans_the_same() -> None:
    matrix = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = orthonormal(matrix)
    torch.testing.assert_close(basis.T @ basis, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(basis @ (basis.T @ matrix), matrix)
