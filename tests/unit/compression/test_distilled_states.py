"""The loss of layerwise distillation: what it counts, what it leaves out, its gradients."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from compression.distillation.states import LayerMaps, spread, state_distance

LENGTHS = [5, 2, 4]


def states(width: int, seed: int, lengths: Sequence[int] = LENGTHS) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(lengths), max(lengths), width, generator=generator, dtype=torch.float64)


def maps_of(*sizes: tuple[int, int]) -> LayerMaps:
    torch.manual_seed(3)
    return LayerMaps(sizes).double()


def test_it_is_the_mean_square_over_an_utterances_own_states_summed_over_utterances() -> None:
    student, teacher = states(3, 0), states(3, 1)
    by_hand = sum(
        ((student[b, s, d] - teacher[b, s, d]) ** 2 / (length * 3)).item()
        for b, length in enumerate(LENGTHS)
        for s in range(length)
        for d in range(3)
    )
    assert state_distance(student, teacher, torch.tensor(LENGTHS)).item() == pytest.approx(by_hand, rel=1e-12)


def test_padding_changes_neither_the_loss_nor_a_gradient() -> None:
    student, teacher, lengths = states(3, 0).requires_grad_(), states(4, 1), torch.tensor(LENGTHS)
    maps = maps_of((3, 4))
    found = []
    for filling in (0.0, float("inf")):
        filled = teacher.clone()
        for row, length in enumerate(LENGTHS):
            filled[row, length:] = filling
        loss = maps([student], [filled], lengths)
        found.append((loss, *torch.autograd.grad(loss, [student, maps.maps[0].weight])))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert found[0][1][1, 2:].eq(0).all()


def test_parts_of_a_unit_have_its_loss_together() -> None:
    student, teacher, lengths = states(3, 0), states(4, 1), torch.tensor(LENGTHS)
    maps = maps_of((3, 4))
    parts = sum(
        maps([student[row, None, :length]], [teacher[row, None, :length]], lengths[row, None])
        for row, length in enumerate(LENGTHS)
    )
    torch.testing.assert_close(parts, maps([student], [teacher], lengths), rtol=1e-12, atol=0)


def test_a_copy_of_the_teacher_begins_with_a_loss_of_0() -> None:
    layers = [states(4, 1), states(6, 2)]
    assert maps_of((4, 4), (6, 6))(layers, layers, torch.tensor(LENGTHS)).item() == 0


@pytest.mark.parametrize("sizes", [(3, 5), (5, 3)])
def test_a_map_between_widths_begins_with_orthogonal_rows_or_columns(sizes: tuple[int, int]) -> None:
    weight = maps_of(sizes).maps[0].weight
    assert isinstance(weight, Tensor)
    product = weight @ weight.T if sizes[0] < sizes[1] else weight.T @ weight
    torch.testing.assert_close(product, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-6)


def test_gradients_are_those_of_finite_differences() -> None:
    lengths = torch.tensor(LENGTHS)
    maps, teacher = maps_of((3, 4), (2, 4)), [states(4, 1), states(4, 2)]

    def loss(one: Tensor, other: Tensor, *weights: Tensor) -> Tensor:
        named = {f"maps.{place}.weight": weight for place, weight in enumerate(weights)}
        found: Tensor = torch.func.functional_call(maps, named, ([one, other], teacher, lengths))
        return found

    inputs = [states(3, 5), states(2, 6), *maps.parameters()]
    assert torch.autograd.gradcheck(loss, [each.detach().requires_grad_() for each in inputs])


def test_closed_entries_of_a_masked_student_cost_nothing_once_their_rows_are_0() -> None:
    """Then the loss is that of the removed student, times the part of the width that it kept; a closed entry has no gradient."""
    kept, closed = [0, 2], [1, 3]
    student, teacher, lengths = states(4, 0), states(5, 1), torch.tensor(LENGTHS)
    mask = torch.zeros(4, dtype=torch.float64)
    mask[kept] = 1.0
    maps, small = maps_of((4, 5)), maps_of((2, 5))
    with torch.no_grad():
        maps.maps[0].weight[closed] = 0
        small.maps[0].weight.copy_(maps.maps[0].weight[kept])
    states_of_student = student.clone().requires_grad_()
    loss = maps([states_of_student * mask], [teacher], lengths)
    removed = small([student[..., kept]], [teacher], lengths)
    torch.testing.assert_close(loss, removed * len(kept) / 4, rtol=1e-12, atol=0)
    by_states, by_map = torch.autograd.grad(loss, [states_of_student, maps.maps[0].weight])
    assert by_states[..., closed].eq(0).all()
    assert by_map[closed].eq(0).all()


def test_rows_of_closed_entries_learn_to_be_0() -> None:
    student, teacher, lengths = states(4, 0), states(4, 1), torch.tensor(LENGTHS)
    student[..., 1] = 0
    maps = maps_of((4, 4))
    weight = maps.maps[0].weight
    for _ in range(300):
        (gradient,) = torch.autograd.grad(maps([student], [teacher], lengths), weight)
        with torch.no_grad():
            weight -= 0.2 * gradient
    assert weight[1].norm() < 1e-3 < weight[0].norm()


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        (3, 3, [(0, 0), (1, 1), (2, 2)]),
        (2, 6, [(0, 2), (1, 5)]),
        (1, 4, [(0, 3)]),
        (3, 4, [(0, 1), (1, 2), (2, 3)]),
        (4, 2, [(0, 0), (1, 0), (2, 1), (3, 1)]),
    ],
)
def test_layers_are_spread_over_the_teachers_last_to_last(
    student: int, teacher: int, pairs: list[tuple[int, int]]
) -> None:
    assert spread(student, teacher) == pairs
