"""The first pass of the pruned loss, an additive joiner: against torchaudio and the paper's recursion."""

from collections.abc import Callable

import pytest
import torch
import torchaudio
from torch import Tensor

from asr.losses.additive import additive_scores, lattice_loss
from asr.losses.inputs import LossInputs
from asr.losses.pruned import Sizes, valid_cells
from asr.losses.reference import reference_sum

MakeInputs = Callable[..., LossInputs]
FRAMES, LABELS = [9, 2, 5, 7], [4, 7, 0, 6]  # the second has fewer frames than labels, the third no labels


def gradients(loss_B: Tensor, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss_B.sum(), tensors)


def additive_loss(
    acoustic_BTV: Tensor,
    language_BSV: Tensor,
    inputs: LossInputs,
    lm_scale: float = 0.0,
    fastemit: float = 0.0,
    delay_penalty: float = 0.0,
) -> tuple[Tensor, Tensor]:
    shape = inputs.shape()
    valid_BTS = valid_cells(Sizes.of(shape, torch.device("cpu")))
    label_BS = torch.nn.functional.pad(inputs.targets_BU, (0, 1))
    scores = additive_scores(acoustic_BTV, language_BSV, label_BS, blank=inputs.blank, lm_scale=lm_scale)
    packed = (scores_BTS[valid_BTS] for scores_BTS in scores)
    return lattice_loss(*packed, shape, fastemit=fastemit, delay_penalty=delay_penalty)


def additive_inputs(inputs: LossInputs) -> tuple[Tensor, Tensor]:
    """a and l of a random additive joiner, as leaves."""
    rng = torch.Generator().manual_seed(3)
    shapes = (*inputs.encoder_BTJ.shape[:2], 9), (*inputs.predictor_BSJ.shape[:2], 9)
    acoustic_BTV, language_BSV = (
        (2 * torch.randn(shape, generator=rng, dtype=inputs.encoder_BTJ.dtype)).requires_grad_() for shape in shapes
    )
    return acoustic_BTV, language_BSV


def test_the_first_pass_is_torchaudios_loss_of_the_sums(make_inputs: MakeInputs) -> None:
    inputs = make_inputs(FRAMES, LABELS, dtype=torch.float32)
    leaves = additive_inputs(inputs)
    loss_B, occupancy_N = additive_loss(*leaves, inputs)
    lengths = inputs.encoder_lengths_B.int(), inputs.target_lengths_B.int()
    logits_BTSV = leaves[0][:, :, None] + leaves[1][:, None]
    expected_B = torchaudio.functional.rnnt_loss(
        logits_BTSV, inputs.targets_BU.int(), *lengths, blank=0, reduction="none"
    )
    torch.testing.assert_close(loss_B, expected_B, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients(loss_B, leaves), gradients(expected_B, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    sums = [cells.sum().item() for cells in occupancy_N.split(inputs.shape().cells)]
    assert sums == pytest.approx([frames + labels for frames, labels in zip(FRAMES, LABELS, strict=True)])


def test_the_share_of_the_labels_alone_is_that_of_the_paper(make_inputs: MakeInputs) -> None:
    inputs = make_inputs(FRAMES, LABELS)
    leaves, scale = additive_inputs(inputs), 0.3
    loss_B, _ = additive_loss(*leaves, inputs, lm_scale=scale)
    expected = []
    for index, (frames, labels) in enumerate(zip(FRAMES, LABELS, strict=True)):
        acoustic_TV, language_SV = leaves[0][index, :frames], leaves[1][index, : labels + 1]
        both_TSV = (acoustic_TV[:, None] + language_SV).log_softmax(-1)
        mixed_TSV = (1 - scale) * both_TSV + scale * language_SV.log_softmax(-1)
        expected.append(reference_sum(mixed_TSV, inputs.targets_BU[index, :labels], 0))
    torch.testing.assert_close(loss_B, torch.stack(expected), rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(loss_B, leaves), gradients(torch.stack(expected), leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_options_of_the_exact_loss_hold_for_the_first_pass(make_inputs: MakeInputs) -> None:
    """Both against the paper's recursion: the penalty added to labels, FastEmit by hooks on what reaches them."""
    inputs = make_inputs(FRAMES, LABELS)
    leaves, fastemit, penalty = additive_inputs(inputs), 0.4, 0.2
    loss_B, _ = additive_loss(*leaves, inputs, fastemit=fastemit, delay_penalty=penalty)
    is_label_V = (torch.arange(9) != inputs.blank).double()
    expected = []
    for index, (frames, labels) in enumerate(zip(FRAMES, LABELS, strict=True)):
        both_TSV = leaves[0][index, :frames, None] + leaves[1][index, : labels + 1]
        early_T11 = ((frames - 1) / 2 - torch.arange(frames, dtype=torch.float64))[:, None, None]
        rewarded_TSV = both_TSV.log_softmax(-1) + penalty * early_T11 * is_label_V
        rewarded_TSV.register_hook(lambda gradient_TSV: gradient_TSV * (1 + fastemit * is_label_V))
        expected.append(reference_sum(rewarded_TSV, inputs.targets_BU[index, :labels], inputs.blank))
    torch.testing.assert_close(loss_B, torch.stack(expected), rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(loss_B, leaves), gradients(torch.stack(expected), leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("distance", [30.0, 200.0])
def test_sides_that_contradict_each_other_leave_gradients_finite(make_inputs: MakeInputs, distance: float) -> None:
    """In fp32 the product underflows: the loss is then too large, never negative."""
    inputs = make_inputs([5], [3], dtype=torch.float32)
    acoustic_BTV, language_BSV = (torch.zeros_like(leaf).detach() for leaf in additive_inputs(inputs))
    acoustic_BTV[..., 1], language_BSV[..., 2] = distance, distance
    leaves = acoustic_BTV.requires_grad_(), language_BSV.requires_grad_()
    loss_B, _ = additive_loss(*leaves, inputs)
    assert loss_B.isfinite().all()
    assert (loss_B >= 0).all()
    assert all(gradient.isfinite().all() for gradient in gradients(loss_B, leaves))
