"""Comparators of ScaleCom: conservation, what is chosen, bad steps, frozen parameters, traffic."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distributed.learners.world import World
from distributed.schemes.half_allreduce import HalfAllReduce
from distributed.schemes.random_k import random_positions
from distributed.sparse.segments import Segment
from tests.schemes import words

WITH_MEMORY = words(lambda each: each.remembers)
ROUNDED = [(word, False) for word in words(lambda each: "values" in each.keys)]


@pytest.mark.parametrize("scheme", WITH_MEMORY)
def test_the_jointly_unsent_gradient_is_the_mean_of_the_memories(
    run_learners, compressed, by_hand, scheme: str
) -> None:
    """Over beta; and all of them apply the same, bitwise."""

    def learner(world: World) -> tuple[Tensor, Tensor, Tensor]:
        backend: Any = by_hand.prepared(compressed[scheme](world))
        given, applied = torch.zeros_like(backend.memory[0]), torch.zeros_like(backend.memory[0])
        for number in range(60):
            _, own, common = by_hand.step(backend, by_hand.draw(number, world.rank))
            given += own
            applied += common
        return given, applied, backend.memory[0] / getattr(backend, "beta", 1.0)

    results = run_learners(3, learner)
    given, _, owed = (torch.stack(each).mean(0) for each in zip(*results, strict=True))
    torch.testing.assert_close(given - results[0][1], owed, rtol=1e-10, atol=1e-10)
    assert owed.abs().max() > 0.1
    assert all(torch.equal(applied, results[0][1]) for _, applied, _ in results)


@pytest.mark.parametrize("scheme", WITH_MEMORY)
def test_a_bad_gradient_of_one_learner_changes_nobody_s_state(run_learners, compressed, by_hand, scheme: str) -> None:
    def learner(world: World) -> None:
        backend: Any = by_hand.prepared(compressed[scheme](world))
        for number in range(4):
            values = by_hand.draw(number, world.rank)
            if number == 2 and world.rank == 1:
                values[0][3, 3] = math.nan
            memory = backend.memory[0].clone()
            factors = {name: factor.clone() for name, factor in getattr(backend, "factors", {}).items()}
            finite, _, _ = by_hand.step(backend, values)
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


@pytest.mark.parametrize(("scheme", "overlap"), [*ROUNDED, ("scalecom", True)])
def test_means_of_what_travels_in_bf16_are_not_rounded_to_it(
    run_learners, compressed, by_hand, scheme: str, overlap: bool
) -> None:
    """A third of one, in fp32."""

    def learner(world: World) -> None:
        backend: Any = compressed[scheme](world)
        backend.values, backend.overlap = "bfloat16", overlap
        model = backend.wrap(by_hand.layers().float())
        backend.attach(torch.optim.SGD(model.parameters(), lr=1.0))
        backend.begin_step(1.0, 1.0)
        (sum(parameter.sum() for parameter in model.parameters()) * float(world.rank == 0)).backward()
        assert backend.reduce_gradients(None).finite
        applied = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        assert torch.equal(applied.unique(), torch.tensor([0.0, 1.0]) / 3)
        backend.close()

    run_learners(3, learner)


@pytest.mark.parametrize("scheme", WITH_MEMORY)
def test_parameters_without_elements_do_no_harm(run_learners, compressed, scheme: str) -> None:
    """Where they would be all that is compressed, too."""

    def learner(world: World) -> None:
        backend = compressed[scheme](world)
        model = nn.ParameterList([nn.Parameter(torch.zeros(shape)) for shape in [(0, 3), (5,)]])
        backend.attach(torch.optim.SGD(backend.wrap(model).parameters(), lr=1.0))
        backend.begin_step(1.0, 1.0)
        model[1].grad.fill_(1.0)
        assert backend.reduce_gradients(None).finite
        assert torch.equal(model[1].grad, torch.ones(5))

    run_learners(2, learner)


def test_local_top_k_applies_the_sum_of_what_learners_choose_themselves(run_learners, compressed, by_hand) -> None:
    def learner(world: World) -> tuple[Tensor, Tensor, list[Segment]]:
        backend: Any = by_hand.prepared(compressed["local_topk"](world))
        _, given, applied = by_hand.step(backend, by_hand.draw(0, world.rank))
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


@pytest.mark.parametrize("scheme", WITH_MEMORY)
def test_a_temporarily_frozen_parameter_is_not_sent_and_keeps_its_memory(
    run_learners, compressed, by_hand, scheme: str
) -> None:
    def learner(world: World) -> tuple[dict[str, Tensor], ...]:
        backend: Any = by_hand.prepared(compressed[scheme](world))
        frozen = backend.model[0].weight
        given, applied = ({n: torch.zeros_like(p) for n, p in backend.model.named_parameters()} for _ in range(2))
        payloads = []
        for number in range(9):
            frozen.requires_grad_(number // 3 != 1)
            backend.exchange.take_payload()
            values = by_hand.draw(number, world.rank)
            backend.zero_grad()
            backend.begin_step(1.0, 1.0)
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
        return given, applied, {n: m / getattr(backend, "beta", 1.0) for n, m in memory.items()}

    results = run_learners(3, learner)
    for name in results[0][0]:
        given, applied, owed = (torch.stack([each[kind][name] for each in results]).mean(0) for kind in range(3))
        torch.testing.assert_close(given - applied, owed, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_sends_half_the_bytes_and_averages_to_its_precision(run_learners, by_hand, dtype: str) -> None:
    def learner(world: World) -> tuple[Tensor, Tensor]:
        backend = HalfAllReduce(dtype=dtype, world=world)
        backend.attach(torch.optim.SGD(backend.wrap(by_hand.layers().float()).parameters(), lr=1.0))
        finite, given, applied = by_hand.step(backend, by_hand.draw(0, world.rank))
        assert finite
        assert backend.exchange.payload.total == given.nbytes // 2
        values = by_hand.draw(1, world.rank)
        if world.rank == 1:
            values[1][0] = math.inf
        assert not by_hand.step(backend, values)[0]
        if dtype == "float16":
            assert not by_hand.step(backend, [1e6 * value for value in by_hand.draw(2, world.rank)])[0]
        return given, applied

    results = run_learners(3, learner)
    mean = torch.stack([given for given, _ in results]).mean(0)
    tolerance = 2e-3 if dtype == "float16" else 2e-2
    assert all(torch.equal(applied, results[0][1]) for _, applied in results)
    torch.testing.assert_close(results[0][1], mean, rtol=tolerance, atol=tolerance)
