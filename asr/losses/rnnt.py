"""The transducer loss, exact and fused with the joiner (Graves 2012, arXiv 1211.3711).

Joiner logits z[b,t,u] = W tanh(e[b,t] + p[b,u]) + bias are computed tile by tile and dropped; what is kept of V classes
are two log probabilities per cell, of blank and of the next label. The lattice turns them into the likelihood and into
the posteriors of the arcs, from which the gradient follows without any further recursion, logits being computed again:

    d(-log P)/dz[t,u,k] = occupancy[t,u] softmax(z[t,u])[k] - blank_posterior[t,u] [k=blank] - label_posterior[t,u] [k=y(u+1)]

B utterances   T frames   U labels   S = U + 1   J joint dimension   V classes with blank   N valid cells   n cells of a tile
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from asr.losses.joint import Combine, Joint, Tile, cut_tiles
from asr.losses.lattice import Arcs, Shape, arc_posteriors, arcs_from_packed, forward_variables, log_likelihood, unpack

Tensors = tuple[Tensor, Tensor, Tensor, Tensor]  # encoder_BTJ, predictor_BSJ, weight_VJ, bias_V


def transducer_loss(
    encoder_BTJ: Tensor,
    predictor_BSJ: Tensor,
    weight_VJ: Tensor,
    bias_V: Tensor,
    targets_BU: Tensor,
    encoder_lengths_B: Tensor,
    target_lengths_B: Tensor,
    *,
    combine: Combine,
    blank: int,
    tile_cells: int,
) -> Tensor:
    """Negative log likelihood of each utterance, (B,), float32 (float64 for float64 inputs), with exact gradients.

    ``encoder_BTJ`` and ``predictor_BSJ`` are the joiner's projections; what lies behind an utterance's lengths is not
    read. Matrix products run in the dtype of ``encoder_BTJ``, or of autocast where it is on. ``tile_cells`` bounds how
    many cells' logits exist at a time. An utterance of non-finite inputs has a non-finite loss, and a non-finite loss
    non-finite gradients; unusable lengths or labels raise ValueError.
    """
    tensors = (encoder_BTJ, predictor_BSJ, weight_VJ, bias_V)
    shape = checked_shape(tensors, targets_BU, encoder_lengths_B, target_lengths_B, blank)
    labels_N = packed_labels(targets_BU, shape, blank)
    dtype, differentiable = product_dtype(encoder_BTJ), torch.is_grad_enabled()  # inside a Function it never is
    problem = Problem(shape, labels_N, combine, blank, tile_cells, dtype, differentiable)
    loss_B: Tensor = _TransducerLoss.apply(*tensors, problem)
    return loss_B


@dataclass(frozen=True, slots=True)
class Problem:
    """What the loss needs beside the tensors that receive gradients."""

    shape: Shape
    labels_N: Tensor
    combine: Combine
    blank: int
    tile_cells: int
    dtype: torch.dtype  # of the matrix products
    differentiable: bool = False  # whether a backward pass may follow

    @property
    def softmax_dtype(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)


class _TransducerLoss(torch.autograd.Function):
    """Forward keeps two posteriors per cell; backward goes over the tiles again."""

    @staticmethod
    def forward(
        ctx: Any, encoder_BTJ: Tensor, predictor_BSJ: Tensor, weight_VJ: Tensor, bias_V: Tensor, problem: Problem
    ) -> Tensor:
        tensors = (encoder_BTJ, predictor_BSJ, weight_VJ, bias_V)
        arcs = score_arcs(tensors, problem)
        alpha_DBS = forward_variables(arcs)
        # tanh would hide an infinite state: let it show, so that whoever guards against bad steps sees it
        loss_B = -log_likelihood(alpha_DBS, problem.shape) + _poison(tensors, problem.shape)
        loss_B = loss_B.to(problem.softmax_dtype)
        if problem.differentiable and any(ctx.needs_input_grad):
            ctx.problem = problem
            ctx.save_for_backward(*tensors, *arc_posteriors(arcs, alpha_DBS, problem.softmax_dtype), 0.0 * loss_B)
        return loss_B

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale_B: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, blank_N, label_N, poison_B = ctx.saved_tensors
        cells_B = torch.tensor(ctx.problem.shape.cells, device=scale_B.device)
        scale_B = scale_B + poison_B  # tanh is flat at infinity: the gradients would be finite where the loss is not
        scale_N = scale_B.repeat_interleave(cells_B, output_size=len(blank_N))
        gradients = _gradients(tuple(tensors), ctx.problem, scale_N * blank_N, scale_N * label_N)
        return *gradients, None


def score_arcs(tensors: Tensors, problem: Problem) -> Arcs:
    """Log probabilities of blank and of the next label in every cell of the lattices."""
    tiles = cut_tiles(problem.shape, problem.tile_cells)
    blank_N = tensors[0].new_empty(sum(problem.shape.cells), dtype=problem.softmax_dtype)
    label_N = torch.empty_like(blank_N)
    with torch.autocast(blank_N.device.type, enabled=False):
        joint = Joint.build(tensors, problem.dtype, problem.combine, tiles)
        for tile in tiles:
            cells = slice(tile.first, tile.first + tile.size)
            _, logits_nV = joint.compute(tile)
            log_probs_nV = logits_nV.log_softmax(-1, dtype=problem.softmax_dtype)
            blank_N[cells] = log_probs_nV[:, problem.blank]
            label_N[cells] = log_probs_nV.gather(1, problem.labels_N[cells, None]).squeeze(1)
    return arcs_from_packed(blank_N, label_N, problem.shape)


def _gradients(tensors: Tensors, problem: Problem, blank_N: Tensor, label_N: Tensor) -> Tensors:
    """Gradients of sum_b scale_b loss_b, given the posteriors of the arcs times scale_b."""
    tiles = cut_tiles(problem.shape, problem.tile_cells)
    wide = problem.softmax_dtype  # sums over tiles are not rounded to the dtype of the products
    gradients = tuple(torch.zeros_like(tensor, dtype=wide) for tensor in tensors)
    encoder_grad_BTJ, predictor_grad_BSJ, weight_grad_VJ, bias_grad_V = gradients
    with torch.autocast(blank_N.device.type, enabled=False):
        joint = Joint.build(tensors, problem.dtype, problem.combine, tiles)
        hidden_grad_buffer_nJ = torch.empty_like(joint.hidden_nJ)
        for tile in tiles:
            cells = slice(tile.first, tile.first + tile.size)
            hidden_nJ, logits_nV = joint.compute(tile)
            logits_grad_nV = _logits_gradient(
                logits_nV, blank_N[cells], label_N[cells], problem.labels_N[cells], problem
            )
            bias_grad_V += logits_grad_nV.sum(0)
            logits_grad_nV = logits_grad_nV.to(problem.dtype)
            _add_product(weight_grad_VJ, logits_grad_nV.t(), hidden_nJ)
            hidden_grad_nJ = hidden_grad_buffer_nJ[: tile.size]
            torch.mm(logits_grad_nV, joint.weight_VJ, out=hidden_grad_nJ)
            torch.ops.aten.tanh_backward.grad_input(hidden_grad_nJ, hidden_nJ, grad_input=hidden_grad_nJ)
            _add_input_gradients(joint, tile, hidden_grad_nJ, encoder_grad_BTJ, predictor_grad_BSJ)
    casted = (gradient.to(tensor.dtype) for gradient, tensor in zip(gradients, tensors, strict=True))
    return tuple(casted)  # type: ignore[return-value]


def _logits_gradient(logits_nV: Tensor, blank_n: Tensor, label_n: Tensor, labels_n: Tensor, problem: Problem) -> Tensor:
    """occupancy * softmax(z) minus the posteriors of the arcs, in the dtype of the softmax."""
    gradient_nV = logits_nV.softmax(-1, dtype=problem.softmax_dtype)
    gradient_nV.mul_((blank_n + label_n)[:, None])
    gradient_nV[:, problem.blank] -= blank_n
    return gradient_nV.scatter_add_(1, labels_n[:, None], -label_n[:, None])


def _add_product(total_VJ: Tensor, left_Vn: Tensor, right_nJ: Tensor) -> None:
    """total += left @ right, where the product may be of a narrower dtype."""
    if total_VJ.dtype == left_Vn.dtype:
        torch.addmm(total_VJ, left_Vn, right_nJ, out=total_VJ)
    else:
        total_VJ += left_Vn @ right_nJ


def _add_input_gradients(
    joint: Joint, tile: Tile, sum_grad_nJ: Tensor, encoder_BTJ: Tensor, predictor_BSJ: Tensor
) -> None:
    """Sum the gradient of e + p (or e * p) over u for the encoder, over t for the predictor."""
    for piece in tile.pieces:
        grad_tSJ = piece.cells(sum_grad_nJ)
        frames = (piece.utterance, slice(piece.start, piece.stop))
        states = (piece.utterance, slice(piece.states))
        if joint.combine == "add":
            encoder_BTJ[frames] = grad_tSJ.sum(1)
            predictor_BSJ[states] += grad_tSJ.sum(0)
        else:
            encoder_BTJ[frames] = (grad_tSJ * joint.predictor_BSJ[states]).sum(1)
            predictor_BSJ[states] += grad_tSJ.mul_(joint.encoder_BTJ[frames][:, None]).sum(0)


def _poison(tensors: Tensors, shape: Shape) -> Tensor:
    """Zero for each utterance whose states and whose weights are finite, NaN otherwise; (B,)."""
    encoder_BTJ, predictor_BSJ, weight_VJ, _ = tensors
    sums = [
        encoder_BTJ[index, :frames].sum() + predictor_BSJ[index, :states].sum()
        for index, (frames, states) in enumerate(zip(shape.frames, shape.states, strict=True))
    ]
    return 0.0 * (torch.stack(sums) + weight_VJ.sum())


def packed_labels(targets_BU: Tensor, shape: Shape, blank: int) -> Tensor:
    """The label that leaves each packed cell, (N,) int64; blank as a placeholder at u = U."""
    labels_N = targets_BU.new_full((sum(shape.cells),), blank, dtype=torch.int64)
    for labels_TS, target_U in zip(unpack(labels_N, shape), targets_BU, strict=True):
        labels_TS[:, :-1] = target_U[: labels_TS.shape[1] - 1]
    return labels_N


def product_dtype(encoder_BTJ: Tensor) -> torch.dtype:
    """The dtype of the joiner's matrix products."""
    device = encoder_BTJ.device.type
    if torch.is_autocast_enabled(device) and encoder_BTJ.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return encoder_BTJ.dtype


def checked_shape(
    tensors: Tensors, targets_BU: Tensor, encoder_lengths_B: Tensor, target_lengths_B: Tensor, blank: int
) -> Shape:
    """Lengths on the host; ValueError where lengths or labels do not fit the tensors."""
    encoder_BTJ, predictor_BSJ, weight_VJ, _ = tensors
    frames, labels = encoder_lengths_B.tolist(), target_lengths_B.tolist()
    batches = {len(encoder_BTJ), len(predictor_BSJ), len(targets_BU), len(frames), len(labels)}
    if len(batches) > 1 or not frames:
        raise ValueError(f"all inputs of the transducer loss must share one batch of at least 1, got {sorted(batches)}")
    if not 1 <= min(frames) <= max(frames) <= encoder_BTJ.shape[1]:
        raise ValueError(f"encoder lengths must lie in 1..{encoder_BTJ.shape[1]} (frames given), got {frames}")
    most = min(targets_BU.shape[1], predictor_BSJ.shape[1] - 1)
    if not 0 <= min(labels) <= max(labels) <= most:
        raise ValueError(f"target lengths must lie in 0..{most} (labels given, predictor states - 1), got {labels}")
    _check_labels(targets_BU, target_lengths_B, blank, weight_VJ.shape[0])
    return Shape(tuple(frames), tuple(length + 1 for length in labels))


def _check_labels(targets_BU: Tensor, target_lengths_B: Tensor, blank: int, classes: int) -> None:
    """ValueError where a label is the blank or no class at all: the loss would be that of another transcript."""
    positions_U = torch.arange(targets_BU.shape[1], device=targets_BU.device)
    used_BU = positions_U < target_lengths_B.to(targets_BU.device)[:, None]
    bad_BU = used_BU & ((targets_BU < 0) | (targets_BU >= classes) | (targets_BU == blank))
    if bad_BU.any():
        raise ValueError(
            f"labels must lie in 0..{classes - 1} and differ from blank ({blank}), got {targets_BU[bad_BU][0].item()}; "
            "the tokenizer and the model must have the same vocabulary"
        )
