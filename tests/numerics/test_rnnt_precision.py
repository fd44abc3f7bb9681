"""Gradients in single precision of a model that is sure of its transcript, where most of what makes them up cancels."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from asr.losses.inputs import LossInputs
from asr.losses.rnnt import ExactLoss

LOSS = ExactLoss(tile_cells=64, min_occupancy=0.0, fastemit=0.0, delay_penalty=0.0, kernels="torch")
TENSORS = ("encoder_BTJ", "predictor_BSJ", "weight_VJ", "bias_V")


def sure_model(labels: int = 20, classes: int = 12) -> LossInputs:
    """Label u + 1 is emitted at frame 2u. One dimension of the joint says whether it is time, the others which label."""
    rng = torch.Generator().manual_seed(3)
    targets_U = torch.randint(1, classes, (labels,), generator=rng)
    frames_T, states_S = torch.arange(2.0 * labels), torch.arange(labels + 1.0)
    next_SV = functional.one_hot(functional.pad(targets_U, (0, 1)), classes).float()
    encoder_TJ = torch.cat([5 * (frames_T[:, None] / 2 + 0.25), torch.zeros(2 * labels, classes)], 1)
    predictor_SJ = torch.cat([-5 * states_S[:, None], 3 * next_SV], 1)
    weight_VJ, bias_V = 10 * torch.eye(classes, classes + 1).roll(1, 1), torch.full((classes,), -10.0)
    weight_VJ[:, 0] = 10.0
    weight_VJ[0], bias_V[0] = 0.0, 0.0
    tensors = [encoder_TJ[None], predictor_SJ[None], weight_VJ, bias_V]
    tensors = [(each + 0.1 * torch.randn(each.shape, generator=rng)).requires_grad_() for each in tensors]
    return LossInputs(
        **dict(zip(TENSORS, tensors, strict=True)),
        targets_BU=targets_U[None],
        encoder_lengths_B=torch.tensor([2 * labels]),
        target_lengths_B=torch.tensor([labels]),
        combine="add",
        blank=0,
    )


def in_double(inputs: LossInputs) -> LossInputs:
    return replace(inputs, **{name: getattr(inputs, name).detach().double().requires_grad_() for name in TENSORS})


def gradients(inputs: LossInputs) -> tuple[Tensor, ...]:
    return torch.autograd.grad(LOSS(inputs).sum(), inputs.tensors)


def test_gradients_of_a_sure_model_are_not_lost_in_rounding() -> None:
    """The entry of a probability near one is the sum of the others, not a difference of numbers near one."""
    inputs = sure_model()
    assert float(LOSS(inputs).detach()) < 0.05, "a model that is not sure tests nothing"
    for single, double in zip(gradients(inputs), gradients(in_double(inputs)), strict=True):
        assert (single - double).norm() < 1e-5 * double.norm()
