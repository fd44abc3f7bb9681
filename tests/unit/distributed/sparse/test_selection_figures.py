"""Diagnostics of a leader's choice, on vectors whose figures are known."""

import math

import pytest
import torch

from distributed.learners.world import World
from distributed.sparse.selection_figures import contraction, index_overlap, mean_cosine, union, units
from tests.schemes import SCHEMES


def test_overlap_counts_what_is_among_the_largest_of_each_vector():
    means = [torch.tensor([5.0, -9.0, 1.0, 8.0]), torch.tensor([1.0, -2.0])]
    assert index_overlap([torch.tensor([1, 3]), torch.tensor([1])], means) == 1.0
    assert index_overlap([torch.tensor([0, 3]), torch.tensor([0])], means) == pytest.approx(1 / 3)


def test_contraction_is_the_part_of_the_squared_norm_that_is_left():
    means = [torch.tensor([3.0, 4.0]), torch.tensor([0.0, 12.0])]
    assert contraction([torch.tensor([1]), torch.tensor([0])], means) == pytest.approx((9 + 144) / 169)
    assert math.isnan(contraction([torch.tensor([0])], [torch.zeros(3)]))


def test_cosine_over_pairs_is_that_of_the_pairs():
    vectors = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = [sum(parts) for parts in zip(*(units(vector.split(3)) for vector in vectors), strict=True)]
    pairs = [torch.cosine_similarity(vectors[i], vectors[j], 0) for i in range(4) for j in range(i)]
    assert mean_cosine(total, 4) == pytest.approx(torch.stack(pairs).mean().item())
    assert math.isnan(mean_cosine(total, 1))
    assert math.isnan(mean_cosine([torch.zeros(6)], 0))
    assert not torch.cat(units([torch.zeros(2), torch.zeros(1)])).any()


def test_union_counts_positions_that_anybody_chooses():
    assert union([torch.tensor([0.0, 3.0, 1.0]), torch.tensor([1.0])], [torch.tensor([1]), torch.tensor([0])]) == 1.5


def test_equal_learners_have_the_best_metrics_and_measuring_is_neutral(run_learners):
    """With equal gradients: the leader chooses for all, memories are parallel, nobody would choose otherwise."""

    def learner(world: World) -> dict[str, float]:
        backend = SCHEMES["scalecom"].build(world, rate=4, bucket_mb=1)
        model = torch.nn.Sequential(torch.nn.Linear(10, 13), torch.nn.Linear(13, 3))
        backend.attach(torch.optim.SGD(backend.wrap(model).parameters(), lr=1.0))
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            backend.begin_step(1.0, 1.0)
            for parameter in model.parameters():
                parameter.grad.copy_(torch.randn(parameter.shape, generator=generator))
            backend.reduce_gradients(None)
            with backend.updating(apply=True):
                backend.zero_grad()
        memory = backend.memory[0].clone()
        count = sum(parameter.numel() for parameter in model.parameters())
        figures = backend.selection_figures(torch.zeros(count))
        own = backend.selection_figures(torch.randn(count, generator=torch.Generator().manual_seed(world.rank)) * 99)
        assert torch.equal(backend.memory[0], memory)
        assert own["comm/local_union"] > 1.3
        assert own["comm/index_overlap"] < 0.8
        assert not backend.flat.flat_grad[0].any()
        return figures

    for figures in run_learners(3, learner):
        assert figures["comm/local_union"] == 1.0
        assert figures["comm/memory_cosine"] == pytest.approx(1.0, abs=1e-5)
        assert 0.5 < figures["comm/index_overlap"] <= 1.0
        assert 0.0 < figures["comm/contraction"] < 0.6
        assert figures["comm/selection_seconds"] > 0


def test_learners_without_a_memory_are_in_no_pair(run_learners):
    def learner(world: World) -> list[float]:
        backend = SCHEMES["scalecom"].build(world, rate=4, bucket_mb=1)
        backend.wrap(torch.nn.Linear(10, 13))
        cosines = []
        for remembering in range(4):
            backend.memory[0].fill_(float(world.rank < remembering))
            cosines.append(backend.selection_figures(torch.ones(143))["comm/memory_cosine"])
        return cosines

    for none, one, two, three in run_learners(3, learner):
        assert math.isnan(none)
        assert math.isnan(one)
        assert two == pytest.approx(1.0, abs=1e-5)
        assert three == pytest.approx(1.0, abs=1e-5)


def test_where_nothing_is_compressed_there_are_no_figures(alone: World):
    backend = SCHEMES["scalecom"].build(alone, rate=1, bucket_mb=1)
    backend.wrap(torch.nn.Linear(2, 2))
    assert backend.selection_figures(torch.zeros(6)) == {}
