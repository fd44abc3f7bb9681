"""What ScaleCom sends: the same for any number of learners, and at least 65 times less than the gradient at rate 400.

Of all schemes that compress: nothing of frozen parameters; a payload is the sum of its parts.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from asr.parts import build
from distributed.learners.world import World
from scripts.composition.compose import compose
from tests.schemes import SCHEMES, words

PAYLOADS = {  # of two learners: values, indices, uncompressed; of other schemes their sum alone is known
    # Biases begin at multiples of 16 elements, 48 in all; matrices of 240 + 144 make 39 chunks. One byte fills up.
    "scalecom": (4 * 39, 40, 4 * 48),
    "local_topk": (2 * 4 * 39, 2 * 40, 4 * 48),
    "random_k": (4 * 39, 0, 4 * 48),
    "powersgd": (4 * 2 * (20 + 12 + 7 + 20), 0, 4 * 27),
    "half_allreduce": (2 * (48 + 384), 0, 0),
}


def vectors() -> nn.Module:
    """Four parameters, of sizes that are no multiple of the rate."""
    return nn.ParameterList([nn.Parameter(torch.zeros(size)) for size in [(7, 9), (5,), (11, 13), (33,)]])


def payload(world: World, model: nn.Module, rate: int, warmup_steps: int = 0) -> tuple[int, float]:
    """Bytes handed to collectives in one step, and how many times more they are uncompressed."""
    backend = SCHEMES["scalecom"].build(world, rate=rate, warmup_steps=warmup_steps, bucket_mb=1)
    trained = [parameter for parameter in backend.wrap(model).parameters() if parameter.requires_grad]
    backend.attach(torch.optim.SGD(trained, lr=1.0))
    backend.begin_step(1.0, 1.0)
    for gradient in backend.flat.flat_grad:
        gradient.fill_(1.0)
    backend.reduce_gradients(None)
    sent_bytes = backend.exchange.payload.total
    return sent_bytes, backend.metrics()["comm/compression_ratio"]


def test_the_payload_is_the_same_for_2_to_8_learners(run_learners) -> None:
    found = {each for size in range(2, 9) for each in run_learners(size, lambda world: payload(world, vectors(), 10))}
    assert found == {(364, 4 * 244 / 364)}
    # Parameters begin at multiples of 16 elements: 16 + 48 are sent whole, and 64 + 144 make 21 chunks.
    assert 364 == 4 * (16 + 48) + 4 * 21 + 24  # of the last, 3 bytes fill up


def test_frozen_parameters_cost_no_entries(run_learners) -> None:
    """Neither one that would be compressed nor one that would be sent whole; warm-up does not send them either."""

    def learner(world: World) -> tuple[int, int]:
        sent = []
        for warmup_steps in (0, 1):
            model = vectors()
            for place in (1, 2):
                model[place].requires_grad_(False)
            sent.append(payload(world, model, 10, warmup_steps)[0])
        return sent[0], sent[1]

    assert set(run_learners(2, learner)) == {(4 * 48 + 4 * 7 + 8, 4 * (48 + 64))}


def test_dense_over_sent_is_at_least_65_at_rate_400_with_10m_parameters(
    run_learners: Callable[..., list[tuple[int, float]]],
) -> None:
    """Conformer S, its biases, norms and first convolution sent whole, indices included."""
    config = compose("train", ["model=conformer_s"])

    def learner(world: World) -> tuple[int, float]:
        model = build(config.model, vocabulary_size=1024, feature_dimension=80)
        assert sum(parameter.numel() for parameter in model.parameters()) >= 10_000_000
        return payload(world, model, 400)

    for _, ratio in run_learners(2, learner):
        assert ratio >= 65


@pytest.mark.parametrize("warmup_steps", [0, 1])
@pytest.mark.parametrize("scheme", words(lambda each: each.compresses))
def test_a_model_with_frozen_parameters_costs_what_it_costs_without_them(
    run_learners, compressed, scheme: str, warmup_steps: int
) -> None:
    """They lie between others, of sizes that need no filling up. What is sent whole is the mean all the same."""

    def step_with(world: World, shapes: Mapping[int, tuple[int, ...]], trained: tuple[int, ...]) -> tuple[int, Any]:
        backend = compressed[scheme](world)
        backend.warmup_steps = warmup_steps
        model = nn.ParameterDict({str(n): nn.Parameter(torch.zeros(shape)) for n, shape in shapes.items()})
        for name, parameter in model.items():
            parameter.requires_grad_(int(name) in trained)
        backend.attach(torch.optim.SGD(backend.wrap(model).parameters(), lr=1.0))
        backend.begin_step(1.0, 1.0)
        for n in trained:
            model[str(n)].grad.fill_((1.0 + n) * (1 + world.rank))
        assert backend.reduce_gradients(None).finite
        assert all((parameter.grad is not None) == (int(name) in trained) for name, parameter in model.items())
        return backend.exchange.payload.total, model

    def learner(world: World) -> None:
        shapes = {0: (16, 16), 1: (16,), 2: (8, 32), 3: (32,)}
        payload_bytes, model = step_with(world, shapes, trained=(0, 3))
        assert payload_bytes == step_with(world, {n: shapes[n] for n in (0, 3)}, trained=(0, 3))[0]
        assert payload_bytes < step_with(world, shapes, trained=(0, 1, 2, 3))[0]
        assert (model["3"].grad == 6.0).all()
        if warmup_steps or scheme == "half_allreduce":
            assert (model["0"].grad == 1.5).all()

    run_learners(2, learner)


@pytest.mark.parametrize("scheme", words(lambda each: each.compresses))
def test_payload_parts_are_per_step_and_add_up_to_the_whole_payload(run_learners, compressed, scheme: str) -> None:
    """Warm-up is uncompressed; a figure is over the steps since the last one."""

    def learner(world: World) -> None:
        backend = compressed[scheme](world)
        backend.warmup_steps = 1
        model = backend.wrap(nn.Sequential(nn.Linear(12, 20), nn.Linear(20, 7)))
        backend.attach(torch.optim.SGD(model.parameters(), lr=1.0))
        for steps, expected in ((1, (0, 0, 4 * (48 + 384))), (2, PAYLOADS.get(scheme))):
            for number in range(steps):
                backend.begin_step(1.0, 1.0)
                backend.flat.flat_grad[0].normal_(generator=torch.Generator().manual_seed(number))
                assert backend.reduce_gradients(None).finite
                with backend.updating(apply=True):
                    pass
            payload_bytes, figures = backend.exchange.payload.total, backend.metrics()
            parts = tuple(figures[f"comm/payload_{part}"] for part in ("values", "indices", "uncompressed"))
            if expected is not None:
                assert parts == expected
            assert sum(parts) * steps == payload_bytes
            assert figures["comm/compression_ratio"] == steps * 4 * (240 + 20 + 140 + 7) / payload_bytes
        assert not any(key.startswith("comm/payload") for key in backend.metrics())

    run_learners(2, learner)
