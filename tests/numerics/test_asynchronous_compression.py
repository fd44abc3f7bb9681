"""Compressed exchanges of asynchronous gossip: the sum is conserved, both ends know the same, bytes are as counted."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distributed.learners.world import World
from distributed.schemes.adpsgd import AsynchronousGossip
from tests.schemes import SCHEMES

ELEMENTS = 200
OPPOSITE = {"initiates": "answers", "answers": "initiates"}


def prepared(world: World, start: Tensor, **changes: Any) -> AsynchronousGossip:
    """The scheme around a model with weights ``start``."""
    backend = SCHEMES["adpsgd"].build(world, **changes)
    assert isinstance(backend, AsynchronousGossip)
    backend.wrap(nn.Linear(len(start), 1, bias=False).to(start.dtype))
    with torch.no_grad():
        backend.flat.flat[0][: len(start)].copy_(start)
    return backend


def skipped_steps(backend: AsynchronousGossip, rounds: int) -> None:
    """Steps without an update until this learner has gone through so many rounds of its own, then nothing is in flight."""
    backend.synchronise(resumed=True)
    until = backend.round + rounds
    while backend.round < until:
        backend.begin_step(1.0, 1.0)
        with backend.updating(apply=False):
            pass
    backend.drain()


def known(backend: AsynchronousGossip) -> dict[str, Any]:
    """What each thread has sent and received, by the other learner."""
    return {
        name: ({int(to): sent[0].clone() for to, sent in each.sent.items()}, {j: h[0].clone() for j, h in each.received.items()})
        for name, each in backend.rounds.buffers._replicas().items()
    }  # fmt: skip


@pytest.mark.parametrize(
    ("learners", "topology", "compression"), [(2, "ring", "int8"), (3, "random_ring", "int4"), (3, "ring", "topk")]
)
def test_the_sum_is_conserved_and_replicas_agree_also_after_a_resume(
    run_learners, learners: int, topology: str, compression: str
):
    starts = torch.randn(learners, ELEMENTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    options = {"topology": topology, "compression": compression, "max_staleness": 64}
    states: list[Any] = [None] * learners

    def learner(world: World) -> tuple[Tensor, dict[str, float], dict[str, Any], dict[str, Any], Tensor]:
        backend = prepared(world, starts[world.rank], **options)
        skipped_steps(backend, 30)
        figures, weights = backend.metrics(), backend.flat.flat[0][:ELEMENTS].clone()
        states[world.rank] = backend.state_dict()
        world.barrier()
        resumed = prepared(world, weights, **options)
        resumed.load_state_dict(states, world.rank, learners)
        loaded = known(resumed)
        skipped_steps(resumed, 3)
        for each in (backend, resumed):
            each.close()
        return weights, figures, known(backend), loaded, resumed.flat.flat[0][:ELEMENTS].clone()

    results = run_learners(learners, learner)
    for place in (0, 4):
        weights = torch.stack([result[place] for result in results])
        torch.testing.assert_close(weights.mean(0), starts.mean(0), rtol=0, atol=1e-12)
        assert (weights - weights.mean(0)).norm() < 0.3 * (starts - starts.mean(0)).norm()
    for rank, (_, figures, before, loaded, _) in enumerate(results):
        payload = [figures[f"comm/payload_{kind}"] for kind in ("values", "indices", "uncompressed")]
        assert sum(payload) * figures["comm/rounds"] == pytest.approx(
            figures["comm/bytes_sent"] - figures["comm/control_bytes_sent"]
        )
        assert figures["comm/compression_ratio"] > 1
        for name, (sent, received) in before.items():
            assert sent.keys() == received.keys()
            for other, vector in sent.items():
                assert torch.equal(vector, results[other][2][OPPOSITE[name]][1][rank])
            for was, now in zip((sent, received), loaded[name], strict=True):
                assert was.keys() == now.keys()
                assert all(torch.equal(was[other], now[other]) for other in was)


def test_a_state_of_other_learners_begins_anew(alone: World):
    backend = prepared(alone, torch.zeros(ELEMENTS), compression="int8")
    state = {"round": 3, "replicas": {"initiates": {"1": [torch.zeros(ELEMENTS)]}, "answers": {}}}
    backend.load_state_dict([state, state], 0, 1)
    assert all(sent == received == {} for sent, received in known(backend).values())
