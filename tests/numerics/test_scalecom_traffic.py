"""What ScaleCom sends: the same for any number of learners, and at least 65 times less than the gradient at rate 400."""

from collections.abc import Callable

import torch
from torch import nn

from distributed.launch import World
from distributed.scalecom import ScaleCom
from scripts.build import build
from scripts.configuration import compose


def vectors() -> nn.Module:
    """Four parameters, of sizes that are no multiple of the rate."""
    return nn.ParameterList([nn.Parameter(torch.zeros(size)) for size in [(7, 9), (5,), (11, 13), (33,)]])


def payload(world: World, model: nn.Module, rate: int, warmup_steps: int = 0) -> tuple[int, float]:
    """Bytes handed to collectives in one step, and how many times more they are uncompressed."""
    backend = ScaleCom(
        rate=rate, rates=[], values="full", beta=1.0, warmup_steps=warmup_steps, overlap=False, bucket_mb=1, world=world
    )
    trained = [parameter for parameter in backend.wrap(model).parameters() if parameter.requires_grad]
    backend.attach(torch.optim.SGD(trained, lr=1.0))
    backend.begin_step(1.0)
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


def test_dense_over_sent_is_at_least_65_at_rate_400_with_ten_million_parameters(
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
