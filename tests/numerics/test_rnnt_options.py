"""Options of the exact loss: what they leave out or change, against the paper's recursion and its own derivative."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from asr.losses.cells import CellIndex
from asr.losses.inputs import LossInputs
from asr.losses.lattice import Shape, arc_posteriors, arcs_from_packed, forward_variables
from asr.losses.reference import joiner_logits, reference_sum
from asr.losses.rnnt import ExactLoss, keep_cells, problem_of, score_cells
from asr.losses.squashing import TANH

PLAIN = ExactLoss(tile_cells=50, min_occupancy=0.0, fastemit=0.0, delay_penalty=0.0, kernels="torch")
MakeInputs = Callable[..., LossInputs]
TENSORS = ("encoder_BTJ", "predictor_BSJ", "weight_VJ", "bias_V")


def reference(inputs: LossInputs, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The paper's recursion, its log probabilities (T, S, V) changed, given which of them are of labels."""
    losses = []
    for index, (frames, labels) in enumerate(zip(inputs.encoder_lengths_B, inputs.target_lengths_B, strict=True)):
        states = inputs.encoder_BTJ[index, :frames], inputs.predictor_BSJ[index, : labels + 1]
        log_probs_TSV = joiner_logits(*states, inputs.weight_VJ, inputs.bias_V).log_softmax(-1)
        is_label_V = torch.arange(log_probs_TSV.shape[-1]) != inputs.blank
        changed_TSV = change(log_probs_TSV, is_label_V.double())
        losses.append(reference_sum(changed_TSV, inputs.targets_BU[index, :labels], inputs.blank))
    return torch.stack(losses)


def gradients(loss_B: Tensor, inputs: LossInputs) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss_B.sum(), inputs.tensors)


def test_the_delay_penalty_is_that_of_the_paper(make_inputs: MakeInputs) -> None:
    inputs, strength = make_inputs([6, 3, 4], [3, 5, 0]), 0.3

    def penalised(log_probs_TSV: Tensor, is_label_V: Tensor) -> Tensor:
        frames = len(log_probs_TSV)
        return (
            log_probs_TSV
            + strength * ((frames - 1) / 2 - torch.arange(frames, dtype=torch.float64))[:, None, None] * is_label_V
        )

    loss_B, expected_B = replace(PLAIN, delay_penalty=strength)(inputs), reference(inputs, penalised)
    torch.testing.assert_close(loss_B, expected_B, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(loss_B, inputs), gradients(expected_B, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert (loss_B[:2] != PLAIN(inputs)[:2]).all()
    assert loss_B[2] == PLAIN(inputs)[2]  # no labels


def test_the_gradient_of_the_delay_penalty_is_that_of_finite_differences(make_inputs: MakeInputs) -> None:
    inputs, loss = make_inputs([7, 4], [4, 2]), replace(PLAIN, delay_penalty=0.5)
    rng = torch.Generator().manual_seed(1)
    directions = [torch.randn(tensor.shape, generator=rng, dtype=torch.float64) for tensor in inputs.tensors]
    ours = gradients(loss(inputs), inputs)
    predicted = sum(float((gradient * each).sum()) for gradient, each in zip(ours, directions, strict=True))

    def at(step: float) -> float:
        moved = [tensor + step * each for tensor, each in zip(inputs.tensors, directions, strict=True)]
        return float(loss(replace(inputs, **dict(zip(TENSORS, moved, strict=True)))).sum().detach())

    assert (at(1e-5) - at(-1e-5)) / 2e-5 == pytest.approx(predicted, rel=1e-7)


def test_fastemit_scales_what_reaches_the_label_arcs(make_inputs: MakeInputs) -> None:
    """Yu et al. (2021), by hooks on the log probabilities of an automatically differentiated recursion."""
    inputs, strength = make_inputs([6, 3, 4], [3, 5, 0]), 0.4

    def hooked(log_probs_TSV: Tensor, is_label_V: Tensor) -> Tensor:
        changed_TSV = log_probs_TSV * 1.0
        changed_TSV.register_hook(lambda gradient_TSV: gradient_TSV * (1 + strength * is_label_V))
        return changed_TSV

    loss_B, expected_B = replace(PLAIN, fastemit=strength)(inputs), reference(inputs, hooked)
    assert torch.equal(loss_B, PLAIN(inputs))
    for ours, theirs in zip(gradients(loss_B, inputs), gradients(expected_B, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def kept_cells(inputs: LossInputs, settings: ExactLoss) -> int:
    problem = problem_of(inputs, settings)
    scores = score_cells(inputs.tensors, problem)
    arcs = arcs_from_packed(scores.blank_N, scores.label_N, problem.shape)
    blank_N, label_N = arc_posteriors(arcs, forward_variables(arcs), torch.float64)
    return len(keep_cells(blank_N, label_N, scores.normaliser_N, problem)[0])


@pytest.mark.parametrize("threshold", [1e-8, 1e-4, 1e-2])
def test_what_is_left_out_is_bounded_by_the_threshold(make_inputs: MakeInputs, threshold: float) -> None:
    """A cell's gradient of the logits has an absolute sum of at most twice its occupancy; tanh and W only pass it on."""
    inputs = make_inputs([60, 40], [25, 30])
    settings = replace(PLAIN, min_occupancy=threshold)
    skipped = sum(inputs.shape().cells) - kept_cells(inputs, settings)
    assert skipped > 0
    assert kept_cells(inputs, PLAIN) == sum(inputs.shape().cells)
    bound = 2 * threshold * skipped
    largest = float(inputs.weight_VJ.detach().abs().max())
    errors = [
        float((ours - exact).abs().sum())
        for ours, exact in zip(gradients(settings(inputs), inputs), gradients(PLAIN(inputs), inputs), strict=True)
    ]
    width = inputs.weight_VJ.shape[1]
    assert 0 < errors[3] <= bound
    assert errors[2] <= bound * width
    assert max(errors[:2]) <= bound * width * largest


def test_the_default_threshold_cannot_be_seen_in_the_gradients(make_inputs: MakeInputs) -> None:
    inputs = make_inputs([60, 40], [25, 30])
    pairs = zip(
        gradients(replace(PLAIN, min_occupancy=1e-8)(inputs), inputs), gradients(PLAIN(inputs), inputs), strict=True
    )
    assert all((ours - exact).norm() < 1e-6 * exact.norm() for ours, exact in pairs)


def test_places_of_cells_are_64_bit_numbers() -> None:
    """The index of a lattice of 2^32 cells takes no more than the lengths do."""
    shape = Shape((70000, 70000), (30001, 30001))
    index = CellIndex(
        starts_B=torch.tensor([0, 70000 * 30001]),
        states_B=torch.tensor(shape.states),
        padded_frames=70000,
        padded_states=30001,
        label_Q=torch.zeros(2 * 30001, dtype=torch.int64),
    )
    assert sum(shape.cells) > 2**32 - 10**8
    cell = (70000 + 69999) * 30001 + 30000
    located = index.locate(torch.tensor([cell, 2**31 + 5]))
    assert located.encoder_n.tolist() == [2 * 70000 - 1, 70000 + (2**31 + 5 - 70000 * 30001) // 30001]
    assert located.predictor_n.tolist() == [2 * 30001 - 1, 30001 + (2**31 + 5 - 70000 * 30001) % 30001]


def test_tanh_by_the_sigmoid_is_tanh() -> None:
    x = torch.linspace(-30, 30, 20001)
    assert (TANH.squash_(x.clone())[0].double() - x.double().tanh()).abs().max() < 3e-7
    ends = torch.tensor([torch.inf, -torch.inf, torch.nan])
    torch.testing.assert_close(TANH.squash_(ends)[0], torch.tensor([1.0, -1.0, torch.nan]), equal_nan=True)
