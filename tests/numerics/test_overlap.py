"""ScaleCom overlapped with backward: the same to the last bit as if sent afterwards, in one order, skipping bad steps."""

import math
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distributed.learners.world import World
from distributed.schemes.scalecom import ScaleCom
from scripts.composition.backends import arguments_of

SINGLY = 1e-9  # MiB: every parameter in a bucket of its own
WHOLE = 1e3


class Late(ScaleCom):
    """Sends the same buckets, but all of them after backward."""

    def begin_step(self, local_weight: float, planned_weight: float) -> float:
        divisor = super().begin_step(local_weight, planned_weight)
        if self._filling is not None:
            self._filling.stop()
        return divisor


class Noted(ScaleCom):
    """Notes what it starts, and when."""

    def begin_step(self, local_weight: float, planned_weight: float) -> float:
        self.events = ["begin"]
        return super().begin_step(local_weight, planned_weight)

    def accumulating(self) -> AbstractContextManager[None]:
        self.events.append("unit")
        return super().accumulating()

    def start_offsets(self, segments: Any) -> Any:
        self.events.append(f"offsets {segments[0].bucket}")
        return super().start_offsets(segments)

    def start_values(self, segments: Any, *others: Any) -> Any:
        self.events.append(f"values {segments[0].bucket}")
        return super().start_values(segments, *others)

    def reduce_gradients(self, max_norm: float | None) -> Any:
        self.events.append("reduce")
        return super().reduce_gradients(max_norm)


def make(world: World, kind: type[ScaleCom] = ScaleCom, **options: Any) -> Any:
    chosen = {"rate": 5, "beta": 0.6, "overlap": True, "bucket_mb": SINGLY} | options
    return kind(**arguments_of("scalecom", **chosen), world=world)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"values": "bfloat16", "warmup_steps": 2}, {"bucket_mb": 5e-4}])
def test_overlap_is_bitwise_equal_to_sending_after_backward(
    laboratory, run_learners, size: int, options: dict[str, Any]
) -> None:
    """Over steps of several units; with one bucket it is bitwise the scheme without overlap."""
    steps = laboratory.global_steps([3, 2, 4, 1, 2, 2], steps=6, dtype=torch.float32)

    def learner(world: World) -> None:
        own = [units[world.rank :: world.size] for units in steps]
        pairs = [
            (make(world, **options), make(world, Late, **options)),
            (make(world, **options | {"bucket_mb": WHOLE}), make(world, **options | {"overlap": False})),
        ]
        for pair in pairs:
            found = [laboratory.train(backend, own, model=laboratory.network(torch.float32)) for backend in pair]
            (reports, weights), (expected_reports, expected_weights) = found
            assert reports == expected_reports
            assert all(torch.equal(weights[name], expected_weights[name]) for name in weights)
            memories = [backend.flat.named_views(backend.memory) for backend in pair]
            assert all(torch.equal(memories[0][name], memories[1][name]) for name in memories[0])
            assert any(memory.any() for memory in memories[0].values())

    run_learners(size, learner)


def test_buckets_are_sent_while_the_last_backward_runs_and_in_order(laboratory, run_learners) -> None:
    """Nothing during earlier units; the values of the last bucket, which say whether all was usable, after backward."""
    steps = laboratory.global_steps([3] * 6, steps=2, dtype=torch.float32)

    def learner(world: World) -> list[str]:
        backend = make(world, Noted, bucket_mb=3e-4)
        own = [units[world.rank :: 2] for units in steps]
        laboratory.train(backend, own, model=laboratory.network(torch.float32))
        assert backend._filling is None  # closed
        return backend.events

    for events in run_learners(2, learner):
        assert events[:3] == ["begin", "unit", "unit"]
        sent = [event for event in events if event.startswith(("offsets", "values"))]
        last = max(segment for segment in range(len(sent) // 2))
        assert sent == [f"{what} {bucket}" for bucket in range(last + 1) for what in ("offsets", "values")]
        assert last >= 2
        assert events.index("offsets 0") < events.index("reduce") < events.index(f"values {last}")


class Branches(nn.Module):
    """Two layers and a third that may be left out, in an order that differs between learners."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in list(self.layers[:2])[:: 1 - 2 * (self.rank % 2)]:
            x = layer(x).tanh()
        return self.layers[2](x) if self.rank != 1 else x


def test_learners_whose_gradients_come_in_other_orders_or_not_at_all_agree(run_learners) -> None:
    def learner(world: World) -> list[Tensor]:
        backend, model = make(world, Noted), Branches(world.rank)
        backend.attach(torch.optim.SGD(backend.wrap(model).parameters(), lr=0.1))
        backend.synchronise(resumed=False)
        applied = []
        for number in range(8):
            backend.begin_step(1.0, 1.0)
            model(torch.randn(4, 6, generator=torch.Generator().manual_seed(10 * number + world.rank))).sum().backward()
            assert backend.reduce_gradients(None).finite
            applied.append(backend.flat.flat_grad[0].clone())
            with backend.updating(apply=True):
                backend.optimizer.step()
            backend.zero_grad()
        return applied

    first, *others = run_learners(3, learner)
    assert all(torch.equal(one, other) for each in others for one, other in zip(first, each, strict=True))


@pytest.mark.parametrize("place", ["layers.0.weight", "layers.2.weight"])
def test_a_bad_gradient_anywhere_skips_the_step_and_changes_no_memory(run_learners, place: str) -> None:
    """In the bucket that is sent first or last, of the leader or of another learner."""

    def learner(world: World) -> None:
        backend, model = make(world), Branches(0)
        backend.attach(torch.optim.SGD(backend.wrap(model).parameters(), lr=0.1))
        bad = model.get_parameter(place)
        for number in range(6):
            before = backend.memory[0].clone()
            spoilt = number in (2, 3) and world.rank == 0  # the leader at 2
            handle = bad.register_hook(lambda g: g.index_fill(1, torch.tensor([4]), math.nan)) if spoilt else None
            backend.begin_step(1.0, 1.0)
            model(torch.randn(4, 6, generator=torch.Generator().manual_seed(number))).sum().backward()
            finite = backend.reduce_gradients(None).finite
            assert finite == (number not in (2, 3))
            assert torch.equal(backend.memory[0], before) == (not finite)
            with backend.updating(apply=finite):
                backend.zero_grad()
            if handle is not None:
                handle.remove()

    run_learners(2, learner)


def test_what_is_frozen_on_the_way_is_no_longer_waited_for(run_learners) -> None:
    def learner(world: World) -> list[list[str]]:
        backend, model = make(world, Noted), Branches(0)
        backend.attach(torch.optim.SGD(backend.wrap(model).parameters(), lr=0.1))
        events = []
        for number in range(3):
            model.layers[2].requires_grad_(number != 1)
            backend.begin_step(1.0, 1.0)
            model(torch.ones(4, 6)).sum().backward()
            assert backend.reduce_gradients(None).finite
            with backend.updating(apply=True):
                backend.zero_grad()
            events.append(backend.events)
        return events

    for whole, part, again in run_learners(2, learner):
        assert sorted(whole) == sorted(again)
        assert len(part) == len(whole) - 4  # two buckets, offsets and values


def test_clipping_is_refused_in_a_line_that_names_both_keys(alone: World) -> None:
    backend = make(alone)
    backend.attach(torch.optim.SGD(backend.wrap(Branches(0)).parameters(), lr=0.1))
    backend.begin_step(1.0, 1.0)
    words = r"^backend\.overlap=true .* trainer\.max_norm=50 .* set trainer\.max_norm=null, or backend\.overlap=false$"
    for refuses in (backend.check_clipping, backend.reduce_gradients):
        with pytest.raises(ValueError, match=words):
            refuses(50.0)
    make(alone, overlap=False).check_clipping(50.0)
    backend.check_clipping(None)
