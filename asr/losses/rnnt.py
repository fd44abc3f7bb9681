"""The transducer loss, exact and fused with the joiner (Graves 2012, arXiv 1211.3711).

Joiner logits are computed tile by tile and dropped (joint.py); of the V classes only two log probabilities per cell are
kept, those of blank and of the next label. The lattice turns them into the likelihood and the posteriors of the arcs
(lattice.py), from which the gradient follows without another recursion. Backward computes the logits again, but only
for the cells that matter: where hardly any alignment passes there is hardly any gradient.

B utterances   T frames   S = U + 1   J joint dimension   V classes with blank   N valid cells   K cells of them kept
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from asr.losses.cells import CellIndex
from asr.losses.inputs import Combine, LossInputs, Tensors
from asr.losses.joint import Gradients, Kept, Scores, TiledJoiner
from asr.losses.lattice import Shape
from asr.losses.squashing import TANH, Squashing
from asr.losses.sums import lattice_sums
from distributed.errors import UsageError
from distributed.ranges import Count, NonNegative, Probability

Kernels = Literal["auto", "torch", "triton"]
CPU_TILE_CELLS = 1024  # logits of 2 MB with 500 classes stay in a cache
GPU_TILE_ELEMENTS = 2**26  # of logits or of joint states, 256 MiB in fp32: a GPU wants work, and few operators


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactLoss:
    """The exact loss, a sum over all alignments: ``transducer_loss`` with its settings bound."""

    tile_cells: Count | None  # number of cells whose logits exist at a time; None: chosen for the device
    min_occupancy: Probability  # backward leaves out cells that alignments visit less probably; 0: none
    fastemit: NonNegative  # Yu et al. 2021, arXiv 2010.11148
    delay_penalty: NonNegative  # Kang et al. 2023, arXiv 2211.00490; per frame
    kernels: Kernels  # implementation of the joiner

    def sized(self, *, joint: int, classes: int) -> "ExactLoss":
        """Returns itself; this loss has no parameters to size."""
        return self

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Loss of each utterance, (B,)."""
        return transducer_loss(inputs, self)


def transducer_loss(inputs: LossInputs, settings: ExactLoss, open_n: Tensor | None = None) -> Tensor:
    """Negative log likelihood of each utterance, (B,), float32 (float64 for float64 inputs).

    ``open_n``: indices, in ascending order, of the packed cells that alignments may pass; None: all.
    Gradients are exact except for cells below ``min_occupancy``, each of which takes away at most that fraction of one
    alignment's gradient. ``fastemit`` scales what reaches the label arcs by 1 + fastemit and leaves the value as it is.
    ``delay_penalty`` adds delay_penalty x ((T - 1) / 2 - t) to the log probability of a label at frame t. Matrix products
    run in the dtype of ``encoder_BTJ``, or of autocast where it is on; everything else in at least float32. An
    utterance of non-finite inputs has a non-finite loss, and a non-finite loss non-finite gradients; unusable lengths or
    labels raise ValueError.
    """
    loss_B: Tensor = _TransducerLoss.apply(*inputs.tensors, problem_of(inputs, settings, open_n))
    return loss_B


@dataclass(frozen=True, slots=True)
class Problem:
    """The inputs of the loss other than the tensors that receive gradients."""

    shape: Shape
    index: CellIndex
    open_n: Tensor  # places of the packed cells that alignments may pass
    combine: Combine
    squashing: Squashing
    blank: int
    tile_cells: int
    dtype: torch.dtype  # dtype of the matrix products
    settings: ExactLoss
    differentiable: bool  # whether a backward pass may follow

    def joiner(self, tensors: Tensors) -> TiledJoiner:
        """The joiner of these tensors, which computes tile by tile."""
        kernels = joiner_class(self.settings.kernels, tensors[0].device, self.dtype, self.squashing)
        return kernels(
            tensors,
            self.index,
            combine=self.combine,
            squashing=self.squashing,
            blank=self.blank,
            tile_cells=self.tile_cells,
            dtype=self.dtype,
        )


def joiner_class(kernels: Kernels, device: torch.device, dtype: torch.dtype, squashing: Squashing) -> type[TiledJoiner]:
    """Choose the joiner: Triton on a GPU, but PyTorch where requested, in double precision and for squashings but tanh.

    Raises:
        UsageError: ``kernels`` is triton and the joiner's squashing is not tanh.
    """
    if kernels == "triton" and squashing is not TANH:
        raise UsageError(
            "model.loss.kernels=triton knows tanh alone, and this joiner squashes otherwise: use auto or torch"
        )
    on_cpu = kernels == "auto" and device.type != "cuda"
    if kernels == "torch" or dtype == torch.float64 or on_cpu or squashing is not TANH:
        return TiledJoiner
    from asr.losses.joint_triton import TritonJoiner  # Triton is not part of every build of PyTorch

    return TritonJoiner


def problem_of(inputs: LossInputs, settings: ExactLoss, open_n: Tensor | None = None) -> Problem:
    """The problem that ``inputs`` pose; ValueError where they do not fit together."""
    shape = inputs.shape()
    return Problem(
        shape=shape,
        index=CellIndex.build(inputs, shape),
        open_n=torch.arange(sum(shape.cells), device=inputs.encoder_BTJ.device) if open_n is None else open_n,
        combine=inputs.combine,
        squashing=inputs.squashing,
        blank=inputs.blank,
        tile_cells=settings.tile_cells or tile_cells_of(inputs.encoder_BTJ.device, *inputs.weight_VJ.shape),
        dtype=inputs.product_dtype,
        settings=settings,
        differentiable=torch.is_grad_enabled(),  # inside a Function it never is
    )


def tile_cells_of(device: torch.device, classes: int, joint: int) -> int:
    """Number of cells of a tile that suits a device."""
    return CPU_TILE_CELLS if device.type == "cpu" else max(CPU_TILE_CELLS, GPU_TILE_ELEMENTS // max(classes, joint))


class _TransducerLoss(torch.autograd.Function):
    """Forward keeps two posteriors for each cell that matters; backward visits these cells in tiles."""

    @staticmethod
    def forward(
        ctx: Any, encoder_BTJ: Tensor, predictor_BSJ: Tensor, weight_VJ: Tensor, bias_V: Tensor, problem: Problem
    ) -> Tensor:
        tensors = (encoder_BTJ, predictor_BSJ, weight_VJ, bias_V)
        scores = score_cells(tensors, problem)
        differentiable = problem.differentiable and any(ctx.needs_input_grad)
        penalty = problem.settings.delay_penalty
        sums = lattice_sums(
            scores.blank_N, scores.label_N, problem.shape, delay_penalty=penalty, with_posteriors=differentiable
        )
        # Squashing would hide an infinite state; the loss must show it, so that the guard against bad steps sees it.
        loss_B = -sums.log_likelihood_B + _poison(tensors, problem.shape)
        loss_B = loss_B.to(torch.promote_types(problem.dtype, torch.float32))
        if differentiable:
            ctx.problem = problem
            kept = keep_cells(*sums.posteriors(loss_B.dtype), scores.normaliser_N, problem)
            ctx.save_for_backward(*tensors, *kept, 0.0 * loss_B)
        return loss_B

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale_B: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, packed_K, blank_K, label_K, normaliser_K, poison_B = ctx.saved_tensors
        problem: Problem = ctx.problem
        scale_B = (
            scale_B + poison_B
        )  # squashing is flat at infinity: the gradients would be finite where the loss is not
        scale_K = scale_B[problem.index.utterances(packed_K)]
        kept = Kept(packed_K, scale_K * blank_K, scale_K * label_K, normaliser_K)
        total = Gradients.zeros(tuple(tensors), scale_K.dtype)
        with torch.autocast(scale_K.device.type, enabled=False):
            problem.joiner(tuple(tensors)).add_gradients(kept, total)
        return *total.like(tuple(tensors)), None


def score_cells(tensors: Tensors, problem: Problem) -> Scores:
    """Log probabilities of blank and of the next label in every cell of the lattices."""
    with torch.autocast(tensors[0].device.type, enabled=False):
        return problem.joiner(tensors).score(problem.open_n, sum(problem.shape.cells))


def keep_cells(blank_N: Tensor, label_N: Tensor, normaliser_N: Tensor, problem: Problem) -> tuple[Tensor, ...]:
    """The K cells that backward visits, with their posteriors and normalisers.

    FastEmit (Yu et al. 2021) scales the gradient of the label arcs and leaves the gradient of the blank arcs unchanged.
    """
    matters_N = ~(blank_N + label_N < problem.settings.min_occupancy)  # NaN does
    packed_K = problem.open_n[matters_N[problem.open_n]]
    blank_K, label_K, normaliser_K = blank_N[packed_K], label_N[packed_K], normaliser_N[packed_K]
    return packed_K, blank_K, label_K * (1 + problem.settings.fastemit), normaliser_K


def _poison(tensors: Tensors, shape: Shape) -> Tensor:
    """(B,) zero for each utterance whose states and weights are finite, otherwise NaN; padding does not count."""
    encoder_BTJ, predictor_BSJ, weight_VJ, _ = tensors
    sums_B = sum(
        torch.where(_used(lengths, states_BXJ), states_BXJ.sum(-1), 0.0).sum(1)
        for lengths, states_BXJ in ((shape.frames, encoder_BTJ), (shape.states, predictor_BSJ))
    )
    return 0.0 * (sums_B + weight_VJ.sum())


def _used(lengths: Sequence[int], states_BXJ: Tensor) -> Tensor:
    """(B, X) whether a state lies within its utterance."""
    length_B = torch.tensor(lengths, device=states_BXJ.device)
    return torch.arange(states_BXJ.shape[1], device=states_BXJ.device) < length_B[:, None]
