"""Norms and clipping, against the formula and torch's own."""

import math

import pytest
import torch
from torch import nn

from distributed.parameters.gradients import clip_gradients


def group(*gradients: list[float], **options: object) -> dict[str, object]:
    parameters = []
    for gradient in gradients:
        parameters.append(nn.Parameter(torch.zeros(len(gradient))))
        parameters[-1].grad = torch.tensor(gradient)
    return {"params": parameters, **options}


def gradients(*groups: dict) -> list[list[float]]:
    return [parameter.grad.tolist() for each in groups for parameter in each["params"]]


def test_clips_to_the_norm_over_all_groups():
    a, b = group([3.0, 0.0]), group([0.0], [4.0])
    assert clip_gradients([a, b], 1.0) == (5.0, True, True)
    assert torch.tensor([x for gradient in gradients(a, b) for x in gradient]).norm() == pytest.approx(1.0, rel=1e-5)


def test_a_small_gradient_or_no_limit_changes_nothing():
    a = group([3.0, 4.0])
    assert clip_gradients([a], 5.0) == (5.0, False, True)
    assert clip_gradients([a], None) == (5.0, False, True)
    assert gradients(a) == [[3.0, 4.0]]


def test_a_group_with_clip_false_neither_counts_nor_is_scaled():
    a, free = group([0.0, 2.0]), group([1e6], clip=False)
    report = clip_gradients([a, free], 1.0)
    assert report.norm == pytest.approx(math.hypot(2.0, 1e6))
    assert report.clipped
    assert gradients(free) == [[1e6]]
    assert gradients(a)[0][1] == pytest.approx(1.0, rel=1e-5)
    assert not clip_gradients([group([0.5]), free], 1.0).clipped


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("clip", [True, False])
def test_non_finite_gradients_are_reported_and_left_alone(bad: float, clip: bool):
    a, b = group([3.0, 4.0]), group([bad], clip=clip)
    report = clip_gradients([a, b], 1.0)
    assert not report.finite
    assert not report.clipped
    assert gradients(a) == [[3.0, 4.0]]


def test_parameters_without_gradient_are_passed_over():
    a = group([3.0, 4.0])
    a["params"].append(nn.Parameter(torch.zeros(2)))
    assert clip_gradients([a], None).norm == 5.0
