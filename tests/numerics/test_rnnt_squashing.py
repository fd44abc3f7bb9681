"""A squashing of another kind: training's tiles and decoding's joiner do the same with it, gradient included."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.losses.inputs import LossInputs
from asr.losses.joint import TiledJoiner
from asr.losses.reference import joiner_logits, reference_loss
from asr.losses.rnnt import ExactLoss, joiner_class
from asr.losses.squashing import TANH, Squashing
from asr.models.joiner import Joiner
from distributed.errors import UsageError

LEVELS = 7  # on each side of zero, as of four bits


class _Rounded(torch.autograd.Function):
    """Rounds forward, and lets gradients through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * LEVELS).round() / LEVELS

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class CodedTanh:
    """tanh on 15 levels, with the gradient of tanh."""

    def __call__(self, x: Tensor) -> Tensor:
        return _Rounded.apply(torch.tanh(x))

    def squash_(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept = x.tanh_()
        return (kept * LEVELS).round_().div_(LEVELS), kept

    def backward_(self, gradient: Tensor, kept: Tensor) -> None:
        gradient.mul_(1 - kept.square())


def loss_and_gradients(inputs: LossInputs, loss: Callable[[LossInputs], Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    loss_B = loss(inputs)
    return loss_B.detach(), torch.autograd.grad(loss_B.sum(), inputs.tensors)


@pytest.mark.parametrize("combine", ["add", "multiply"])
@pytest.mark.parametrize("squashing", [TANH, CodedTanh()], ids=["tanh", "coded"])
def test_the_fused_loss_squashes_as_the_joiner_does(
    squashing: Squashing, combine: str, make_inputs: Callable[..., LossInputs]
) -> None:
    inputs = replace(make_inputs([7, 4], [3, 2], combine=combine), squashing=squashing)
    exact = ExactLoss(tile_cells=5, min_occupancy=0.0, fastemit=0.0, delay_penalty=0.0, kernels="auto")

    def reference(given: LossInputs) -> Tensor:
        losses = []
        for b, (frames, labels) in enumerate(zip([7, 4], [3, 2], strict=True)):
            encoder_TJ, predictor_SJ = given.encoder_BTJ[b, :frames], given.predictor_BSJ[b, : labels + 1]
            logits_TSV = joiner_logits(
                encoder_TJ, predictor_SJ, given.weight_VJ, given.bias_V, given.combine, given.squashing
            )
            losses.append(reference_loss(logits_TSV, given.targets_BU[b, :labels], given.blank))
        return torch.stack(losses)

    for found, expected in zip(loss_and_gradients(inputs, exact), loss_and_gradients(inputs, reference), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    if squashing is not TANH:
        plain = replace(inputs, squashing=TANH)
        assert not torch.allclose(exact(inputs), exact(plain), rtol=1e-4), "rounding to 15 levels is seen"


def test_decoding_takes_the_joiners_squashing() -> None:
    joiner = Joiner(vocabulary_size=5, encoder_dimension=3, predictor_dimension=3, dimension=4, combine="add")
    joiner.squashing = CodedTanh()
    encoder_J, predictor_J = torch.randn(2, 4)
    codes_J = torch.linalg.lstsq(
        joiner.output.weight, joiner.logits(encoder_J, predictor_J) - joiner.output.bias
    ).solution
    torch.testing.assert_close(codes_J * LEVELS, ((encoder_J + predictor_J).tanh() * LEVELS).round(), atol=1e-3, rtol=0)


def test_kernels_that_know_tanh_alone_are_not_given_another() -> None:
    cuda, coded = torch.device("cuda"), CodedTanh()
    assert joiner_class("auto", cuda, torch.float32, coded) is TiledJoiner
    with pytest.raises(UsageError, match=r"^model\.loss\.kernels=triton knows tanh alone"):
        joiner_class("triton", cuda, torch.float32, coded)
