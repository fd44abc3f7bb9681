"""The whole-tensor loss for comparison: the same value as the fused one, and what it cannot do."""

import pytest
import torch

from asr.data.tokenizer import BLANK
from asr.losses.inputs import Combine, LossInputs
from asr.losses.rnnt import ExactLoss
from asr.losses.unfused import TorchaudioLoss
from scripts.composition.startup import line_for_people

EXACT = ExactLoss(tile_cells=50, min_occupancy=0.0, fastemit=0.0, delay_penalty=0.0, kernels="torch")


def make_inputs(combine: Combine = "add", dtype: torch.dtype = torch.float32) -> LossInputs:
    """With more padding than the longest utterance needs."""
    rng = torch.Generator().manual_seed(2)
    sizes = (3, 9, 5), (3, 7, 5), (11, 5), (11,)
    encoder_BTJ, predictor_BSJ, weight_VJ, bias_V = (
        torch.randn(size, generator=rng, dtype=dtype).requires_grad_() for size in sizes
    )
    return LossInputs(
        encoder_BTJ=encoder_BTJ,
        predictor_BSJ=predictor_BSJ,
        weight_VJ=weight_VJ,
        bias_V=bias_V,
        targets_BU=torch.randint(1, 11, (3, 6), generator=rng),
        encoder_lengths_B=torch.tensor([8, 3, 1]),
        target_lengths_B=torch.tensor([4, 5, 0]),
        combine=combine,
        blank=BLANK,
    )


@pytest.mark.parametrize("combine", ["add", "multiply"])
def test_the_unfused_loss_is_the_exact_loss(combine: Combine) -> None:
    inputs = make_inputs(combine)
    loss_B, exact_B = TorchaudioLoss()(inputs), EXACT(inputs)
    torch.testing.assert_close(loss_B, exact_B, rtol=1e-5, atol=1e-5)
    gradients = (torch.autograd.grad(each_B.sum(), inputs.tensors) for each_B in (loss_B, exact_B))
    for gradient, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_double_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no double precision: set trainer\.precision=fp32") as caught:
        TorchaudioLoss()(make_inputs(dtype=torch.float64))
    assert line_for_people(caught.value)


def test_more_logits_than_32_bits_count_are_refused_before_they_are_made() -> None:
    inputs = LossInputs(
        encoder_BTJ=torch.zeros(1, 1, 1).expand(1, 70000, 1),
        predictor_BSJ=torch.zeros(1, 1, 1).expand(1, 20001, 1),
        weight_VJ=torch.zeros(2, 1),
        bias_V=torch.zeros(2),
        targets_BU=torch.ones(1, 1, dtype=torch.int64).expand(1, 20000),
        encoder_lengths_B=torch.tensor([70000]),
        target_lengths_B=torch.tensor([20000]),
        combine="add",
        blank=BLANK,
    )
    with pytest.raises(ValueError, match=r"32 bits and a unit has 2800140000: lower batch\.max_cells") as caught:
        TorchaudioLoss()(inputs)
    assert line_for_people(caught.value)
