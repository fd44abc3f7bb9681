"""Divergences of posteriors: against formulas written out, and gradients by finite differences."""

import copy
import math

import pytest
import torch
from torch import Tensor

from asr.data.tokenizer import BLANK
from asr.losses.reference import joiner_logits
from asr.models.joiner import Joiner
from compression.distillation.posteriors import Lattice, Transcripts, lattice_divergence, state_divergence

STATES, LABELS = [4, 1, 3], [2, 0, 3]


def logits(seed: int, classes: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(3, 4, classes, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_divergence_of_states_is_the_mean_over_an_utterances_own(temperature: float) -> None:
    teacher, student = logits(0), logits(1)
    expected = 0.0
    for row, length in enumerate(STATES):
        p, q = ((each[row, :length] / temperature).softmax(-1) for each in (teacher, student))
        expected += temperature**2 * float((p * (p / q).log()).sum()) / length
    found = state_divergence(teacher, student, torch.tensor(STATES), temperature)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    assert state_divergence(teacher, teacher, torch.tensor(STATES), temperature).item() == 0


def test_at_a_high_temperature_it_is_half_the_mean_square_of_centred_logits() -> None:
    """Hinton et al. 2015, section 2.1: matching logits is the limit of distillation."""
    teacher, student = (each - each.mean(-1, keepdim=True) for each in (logits(0), logits(1)))
    lengths = torch.tensor([4, 4, 4])
    limit = (teacher - student).square().mean(-1).mean(1).sum() / 2
    found = state_divergence(teacher, student, lengths, 1e4)
    torch.testing.assert_close(found, limit, rtol=1e-3, atol=0)


def test_gradients_of_states_are_those_of_finite_differences() -> None:
    student = logits(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: state_divergence(logits(0), z, torch.tensor(STATES), 2.0), [student])


def lattice(seed: int, classes: int, combine: str = "add", joint: int = 3) -> Lattice:
    torch.manual_seed(seed)
    joiner = Joiner(
        vocabulary_size=classes, encoder_dimension=2, predictor_dimension=2, dimension=joint, combine=combine
    )
    joiner = joiner.double()
    with torch.no_grad():
        joiner.output.weight *= 4
    encoder, predictor = torch.randn(3, 4, joint).double(), torch.randn(3, 4, joint).double()
    return Lattice(joiner, encoder.requires_grad_(), predictor.requires_grad_())


def transcripts(classes: int) -> Transcripts:
    targets = torch.randint(1, classes, (3, 3), generator=torch.Generator().manual_seed(5))
    return Transcripts(targets, STATES, LABELS)


def all_logits(each: Lattice) -> Tensor:
    output = each.joiner.output
    return joiner_logits(each.encoder_BTJ, each.predictor_BSJ, output.weight, output.bias, each.joiner.combine)


def by_hand(teacher: Lattice, student: Lattice, said: Transcripts, temperature: float) -> float:
    """Cell by cell, from probabilities of all classes."""
    p_BTSV, q_BTSV = ((all_logits(each) / temperature).softmax(-1).detach() for each in (teacher, student))
    total = 0.0
    for b, (states, labels) in enumerate(zip(STATES, LABELS, strict=True)):
        for t in range(states):
            for u in range(labels + 1):
                named = [BLANK] + ([int(said.targets_BU[b, u])] if u < labels else [])
                p, q = (
                    [float(each[b, t, u, k]) for k in named]
                    + [float(sum(each[b, t, u, k] for k in range(each.shape[-1]) if k not in named))]
                    for each in (p_BTSV, q_BTSV)
                )
                divergence = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
                total += temperature**2 * divergence / (states * (labels + 1))
    return total


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize(("combine", "temperature"), [("add", 1.0), ("multiply", 2.0)])
def test_three_classes_of_every_cell_are_compared(classes: int, combine: str, temperature: float) -> None:
    teacher, student, said = lattice(0, classes, combine), lattice(1, classes, combine), transcripts(classes)
    found = lattice_divergence(teacher, student, said, temperature)
    assert found.item() == pytest.approx(by_hand(teacher, student, said, temperature), rel=1e-10)
    assert abs(lattice_divergence(teacher, copy.deepcopy(teacher), said, temperature).item()) < 1e-14


def test_tiles_change_nothing_and_no_logits_are_larger() -> None:
    teacher, student, said = lattice(0, 7), lattice(1, 7), transcripts(7)
    sizes: list[int] = []
    student.joiner.output.register_forward_hook(lambda module, inputs, output: sizes.append(output[..., 0].numel()))
    found = []
    for cells in (1, 5, None):
        sizes.clear()
        loss = lattice_divergence(teacher, student, said, 1.0, cells)
        found.append((loss, *torch.autograd.grad(loss, [student.encoder_BTJ, student.joiner.output.weight])))
        if cells is not None:
            assert max(sizes) <= max(cells, max(LABELS) + 1), "whole states"
        assert sum(sizes) == 2 * sum(t * (u + 1) for t, u in zip(STATES, LABELS, strict=True)), "once more in backward"
    for one in found[1:]:
        for value, first in zip(one, found[0], strict=True):
            torch.testing.assert_close(value, first, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("classes", [2, 4])
def test_gradients_of_the_lattice_are_those_of_finite_differences(classes: int) -> None:
    teacher, student, said = lattice(0, classes), lattice(1, classes), transcripts(classes)

    def loss(encoder: Tensor, predictor: Tensor, weight: Tensor) -> Tensor:
        joiner = copy.deepcopy(student.joiner)
        del joiner.output.weight
        joiner.output.weight = weight
        return lattice_divergence(teacher, Lattice(joiner, encoder, predictor), said, 1.5, tile_cells=4)

    inputs = [student.encoder_BTJ, student.predictor_BSJ, student.joiner.output.weight]
    assert torch.autograd.gradcheck(loss, [each.detach().requires_grad_() for each in inputs], fast_mode=True)
    loss(*inputs).backward()
    assert teacher.encoder_BTJ.grad is None
    assert teacher.joiner.output.weight.grad is None


def test_gradients_are_exact_where_the_student_is_sure() -> None:
    """In fp32, beside those in fp64: what is left for the other classes is far below the rounding error of 1."""
    teacher, student, said = lattice(0, 7), lattice(1, 7), transcripts(7)
    with torch.no_grad():
        student.joiner.output.bias[BLANK] += 30
    gradients = []
    for dtype in (torch.float64, torch.float32):
        cast = [
            Lattice(copy.deepcopy(each.joiner).to(dtype), each.encoder_BTJ.to(dtype), each.predictor_BSJ.to(dtype))
            for each in (teacher, student)
        ]
        loss = lattice_divergence(*cast, said, 1.0)
        gradients.append(torch.autograd.grad(loss, cast[1].joiner.output.bias)[0].double())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)
