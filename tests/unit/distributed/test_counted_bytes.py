"""What a backend says that it sent: the bytes of the formula, and nothing where there is nobody to send to."""

import pytest
import torch
from torch import nn

from distributed.learners.world import World


@pytest.fixture(params=[False, True])
def ends_with_forward(request: pytest.FixtureRequest) -> bool:
    """A rehearsal that ends with a forward makes the next backward reduce too."""
    return request.param


def bytes_of_a_step(word: str, size: int, payload_bytes: int) -> int | None:
    """What the formula of a word says that a learner sends for a matrix of 31 x 16; None for a word without one."""
    reduced_bytes = 2 * (size - 1) * payload_bytes // size
    return {
        "allreduce": reduced_bytes,
        "ssgd_noise": reduced_bytes,
        "dpsgd": 2 * payload_bytes,  # to two neighbours
        "delay_by_one": reduced_bytes,
        "hierarchical": payload_bytes + payload_bytes // 2 + payload_bytes // 2,  # gradient, share, gathered share
        "scalecom": 2 * (size - 1) * (payload_bytes // 8) // size,
        "local_topk": (size - 1) * (payload_bytes // 8 + 64),  # 62 offsets, filled up to 64 bytes
        "random_k": 2 * (size - 1) * (payload_bytes // 8) // size,
        "powersgd": 2 * (size - 1) * (2 * 16 * 4) // size + 2 * (size - 1) * (2 * 31 * 4) // size,
        "half_allreduce": reduced_bytes // 2,
    }.get(word)


def test_counted_bytes_are_those_of_the_formula(run_learners, train_steps, ends_with_forward: bool, lockstep):
    """One gradient, or one model to each neighbour, per step; accumulated units send nothing.

    A word without a formula is held to what all have in common.

    Control: at the start who resumes, weights and buffers (none), in a rehearsal a gradient; per step one weight, but not
    under gossip.
    """
    word, steps, size = lockstep.word, 3, lockstep.learners

    def run(world: World) -> tuple[dict[str, float], dict[str, float]]:
        backend, model = lockstep.build(world), nn.Linear(31, 16, bias=False)
        wrapped = backend.wrap(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        backend.attach(optimizer)
        backend.metrics()
        unit = (torch.ones(2, 31), torch.ones(2, 16))

        def rehearse() -> None:
            wrapped(unit[0]).sum().backward()
            if ends_with_forward:
                wrapped(unit[0])

        backend.synchronise(resumed=False, rehearse=rehearse)
        start = backend.metrics()
        list(train_steps(backend, wrapped, optimizer, [[unit, unit]] * steps, None))
        figures = backend.metrics()
        backend.close()
        return start, figures

    payload_bytes = 31 * 16 * 4
    reduced_bytes = 2 * (size - 1) * payload_bytes // size
    wire_bytes = bytes_of_a_step(word, size, payload_bytes)
    # In three steps each of three learners hands the others the offsets of its 62 chunks, filled up to 64 bytes.
    offsets_bytes = 2 * 64 if word == "scalecom" else 0
    rehearsals = 1 + ends_with_forward
    rehearsed_bytes = {"allreduce": reduced_bytes, "ssgd_noise": reduced_bytes, "hierarchical": payload_bytes}
    weights_bytes = 0 if lockstep.gossip else 2 * (size - 1) * 8 // size  # the weight of the step, one float64
    results = run_learners(size, run)
    for _, figures in results:
        assert figures["comm/control_bytes_sent"] == figures["comm/control_bytes_received"] == steps * weights_bytes
        if wire_bytes is not None:
            assert figures["comm/bytes_sent"] == steps * (wire_bytes + weights_bytes) + offsets_bytes
        assert figures["comm/bytes_sent"] > steps * weights_bytes
        assert figures["comm/bytes_received"] == figures["comm/bytes_sent"]
        assert figures["comm/rounds"] == steps
        assert figures["comm/rounds_per_step"] == 1
        assert 0 < figures["time/comm_exposed"] < 10
    resumed_bytes = 2 * (size - 1) * 8 * size // size
    for start, _ in results:
        assert start["comm/bytes_sent"] == start["comm/control_bytes_sent"]
    sent_bytes = sum(start["comm/bytes_sent"] for start, _ in results)
    if wire_bytes is not None:
        expected = size * (resumed_bytes + rehearsals * rehearsed_bytes.get(word, 0)) + (size - 1) * payload_bytes
        assert sent_bytes == expected


def test_a_lone_learner_sends_nothing(run_learners, train_steps, every_scheme):
    def learner(world: World) -> None:
        backend, model = every_scheme.build(world), nn.Linear(2, 1)
        wrapped = backend.wrap(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        backend.attach(optimizer)
        backend.synchronise(resumed=False)
        list(train_steps(backend, wrapped, optimizer, [[(torch.ones(1, 2), torch.ones(1, 1))]], None))
        assert backend.metrics()["comm/bytes_sent"] == 0
        backend.close()

    run_learners(1, learner)
