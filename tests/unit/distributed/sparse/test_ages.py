"""Ages of unsent entries, counted by hand."""

import pytest
import torch
from torch import nn

from distributed.learners.world import World
from distributed.schemes.scalecom import ScaleCom
from distributed.sparse.ages import Ages
from distributed.sparse.segments import EVERYTHING, Segment
from tests.schemes import SCHEMES


def step(backend: ScaleCom, gradient: list[float]) -> bool:
    """One step of a model whose weight has such a gradient."""
    backend.begin_step(1.0, 1.0)
    backend.model.weight.grad.copy_(torch.tensor([gradient]))
    finite = backend.reduce_gradients(None).finite
    with backend.updating(apply=finite):
        backend.zero_grad()
    return finite


def make(world: World, **options: object) -> ScaleCom:
    backend = SCHEMES["scalecom"].build(world, **{"rate": 2} | options)
    model = nn.Linear(4, 1, bias=False)
    backend.attach(torch.optim.SGD(backend.wrap(model).parameters(), lr=1.0))
    backend.count_ages()
    return backend


def ages(backend: ScaleCom) -> list[int]:
    """Of the weight's four entries."""
    assert backend.ages is not None
    return (backend.ages.steps - backend.flat.named_views(backend.ages.sent_at)["weight"]).flatten().tolist()


def figures(backend: ScaleCom) -> list[float]:
    found = backend.selection_figures(torch.zeros(4))
    return [found[f"comm/age_{name}"] for name in ("p50", "p95", "max")]


def test_ages_by_hand(run_learners):
    """Of pairs the larger is sent, of what is left the next time: (9, 1), (5, 4); later steps add nothing but the last."""

    def learner(world: World) -> None:
        backend = make(world)
        assert ages(backend) == [0, 0, 0, 0]
        for gradient, expected in [
            ([9.0, 1.0, 5.0, 4.0], [0, 1, 0, 1]),
            ([0.0, 0.0, 0.0, 0.0], [1, 0, 1, 0]),
            ([3.0, 0.0, 0.0, 2.0], [0, 1, 2, 0]),
            ([3.0, 0.0, 0.0, 2.0], [0, 2, 3, 0]),
        ]:
            assert step(backend, gradient)
            assert ages(backend) == expected
        assert figures(backend) == [0, 3, 3]
        assert not step(backend, [torch.nan if world.rank else 1.0, 0.0, 9.0, 0.0])
        assert ages(backend) == expected  # a step that is skipped sends nothing

    run_learners(2, learner)


def test_during_warm_up_no_entry_waits(alone: World):
    backend = make(alone, warmup_steps=2)
    for expected in ([0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]):
        step(backend, [9.0, 1.0, 5.0, 4.0])
        assert ages(backend) == expected
    assert figures(backend) == [0, 1, 1]


def test_at_rate_1_nothing_waits(alone: World):
    backend = make(alone, rate=1)
    for _ in range(5):
        step(backend, [1.0, 0.0, 0.0, 2.0])
        assert ages(backend) == [0, 0, 0, 0]


@pytest.mark.parametrize(("size", "expected"), [(1, (3, 3, 3)), (100, (50, 95, 100))])
def test_percentiles_are_by_nearest_rank(size: int, expected: tuple[float, ...]):
    counted = Ages([torch.zeros(size)])
    counted.after_step([Segment(0, 0, size, 1)], [EVERYTHING])
    counted.steps = 101
    counted.sent_at[0] = torch.randperm(size, dtype=torch.int32) + 1 if size > 1 else torch.tensor([98])
    assert tuple(counted.figures(counted.sent_at).values()) == expected


def test_nobody_counts_unless_asked(alone: World):
    backend = SCHEMES["scalecom"].build(alone, rate=2, bucket_mb=1)
    backend.attach(torch.optim.SGD(backend.wrap(nn.Linear(4, 1, bias=False)).parameters(), lr=1.0))
    step(backend, [1.0, 0.0, 0.0, 2.0])
    assert backend.ages is None
    assert not [key for key in backend.selection_figures(torch.zeros(4)) if "age" in key]
