"""The joiner over tiles of cells as Triton kernels: the mathematics of joint.py, and less of it written to memory.

Forward fuses output layer, log-softmax and the choice of two classes: a tile's logits exist on chip alone. Backward
computes them again and writes their gradient, normalised by what forward kept, one number per cell; the two products
with that gradient are PyTorch's. Rows are addressed with 64-bit offsets.

R encoder rows   Q predictor rows   J joint dimension   V classes with blank   n cells of a tile
"""

import itertools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from asr.losses.cells import Cells
from asr.losses.joint import Gradients, Kept, TiledJoiner

Pointer = Any  # to the first element of a tensor

ELEMENTS = {"BLOCK_N": 16, "BLOCK_J": 128}  # for element-wise kernels, which are memory-bound with any block size
UNTUNED = {"BLOCK_N": 32, "BLOCK_V": 32, "BLOCK_J": 32}  # for products where there is no GPU to tune on
BLOCKS = [
    triton.Config({"BLOCK_N": rows, "BLOCK_V": classes, "BLOCK_J": 64}, num_warps=warps, num_stages=3)
    for rows, classes, warps in itertools.product((64, 128), (64, 128, 256), (4, 8))
]


class TritonJoiner(TiledJoiner):
    """The base class's joiner as Triton kernels; tensors lie on a GPU, or anywhere under Triton's interpreter."""

    def _hidden(self, tile: Cells) -> tuple[Tensor, Tensor]:
        rows, joint = len(tile.encoder_n), self.encoder_RJ.shape[1]
        hidden_nJ = self.space.take("hidden", (rows, joint), self.dtype)
        _hidden_kernel[_elements(rows, joint)](
            self.encoder_RJ, self.predictor_QJ, tile.encoder_n, tile.predictor_n, hidden_nJ,
            rows, joint, hidden_nJ.stride(0), self.combine == "add", **ELEMENTS,
        )  # fmt: skip
        return hidden_nJ, hidden_nJ

    def _score(self, hidden_nJ: Tensor, tile: Cells) -> tuple[Tensor, Tensor, Tensor]:
        rows, joint = hidden_nJ.shape
        blank_n, label_n, normaliser_n = torch.empty(3, rows, dtype=self.wide, device=hidden_nJ.device)
        kernel, fixed = (_tuned_score_kernel, {}) if hidden_nJ.is_cuda else (_score_kernel, UNTUNED)
        kernel[lambda blocks: (triton.cdiv(rows, blocks["BLOCK_N"]),)](
            hidden_nJ, self.weight_VJ, self.bias_V, tile.label_n, blank_n, label_n, normaliser_n,
            rows, len(self.bias_V), joint, hidden_nJ.stride(0), self.blank, self._precision(), **fixed,
        )  # fmt: skip
        return blank_n, label_n, normaliser_n

    def _logits_gradient(self, hidden_nJ: Tensor, tile: Cells, kept: Kept) -> Tensor:
        (rows, joint), classes = hidden_nJ.shape, len(self.bias_V)
        gradient_nV = self.space.take("gradient", (rows, classes), self.dtype)
        kernel, fixed = (_tuned_gradient_kernel, {}) if hidden_nJ.is_cuda else (_gradient_kernel, UNTUNED)
        kernel[lambda blocks: (triton.cdiv(rows, blocks["BLOCK_N"]), triton.cdiv(classes, blocks["BLOCK_V"]))](
            hidden_nJ, self.weight_VJ, self.bias_V, tile.label_n,
            kept.blank_K, kept.label_K, kept.normaliser_K, gradient_nV,
            rows, classes, joint, hidden_nJ.stride(0), gradient_nV.stride(0), self.blank, self._precision(), **fixed,
        )  # fmt: skip
        return gradient_nV

    def _add_input_gradients(self, tile: Cells, kept_nJ: Tensor, hidden_gradient_nJ: Tensor, total: Gradients) -> None:
        rows, joint = kept_nJ.shape
        _input_gradient_kernel[_elements(rows, joint)](
            kept_nJ, hidden_gradient_nJ, self.encoder_RJ, self.predictor_QJ, tile.encoder_n, tile.predictor_n,
            total.encoder_RJ, total.predictor_QJ, rows, joint, kept_nJ.stride(0), hidden_gradient_nJ.stride(0),
            self.combine == "add", **ELEMENTS,
        )  # fmt: skip

    def _precision(self) -> str:
        """The precision of fp32 products: TF32 where the process allows it to PyTorch."""
        return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"


def _elements(rows: int, joint: int) -> tuple[int, int]:
    return triton.cdiv(rows, ELEMENTS["BLOCK_N"]), triton.cdiv(joint, ELEMENTS["BLOCK_J"])


@triton.jit
def _tanh(x: Any) -> Any:
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _hidden_kernel(
    encoder: Pointer, predictor: Pointer, encoder_row: Pointer, predictor_row: Pointer, hidden: Pointer,
    rows: Any, joint: Any, hidden_stride: Any,
    ADD: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_J: tl.constexpr,
) -> None:  # fmt: skip
    """hidden[n, j] = tanh(encoder[row of n, j] + predictor[row of n, j])."""
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    j = tl.program_id(1) * BLOCK_J + tl.arange(0, BLOCK_J)
    inside = (n < rows)[:, None] & (j < joint)[None, :]
    e = tl.load(encoder_row + n, mask=n < rows, other=0)[:, None] * joint + j[None, :]
    p = tl.load(predictor_row + n, mask=n < rows, other=0)[:, None] * joint + j[None, :]
    left, right = tl.load(encoder + e, mask=inside), tl.load(predictor + p, mask=inside)
    out = _tanh(left + right) if ADD else _tanh(left * right)
    tl.store(hidden + n[:, None] * hidden_stride + j[None, :], out.to(hidden.dtype.element_ty), mask=inside)


@triton.jit
def _logits(
    hidden: Pointer, weight: Pointer, bias: Pointer, n: Any, v: Any, rows: Any, classes: tl.constexpr,
    joint: tl.constexpr, hidden_stride: Any, PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_J: tl.constexpr,
) -> Any:  # fmt: skip
    """Logits of rows n and classes v, (BLOCK_N, BLOCK_V) float32; -inf for classes beyond V."""
    total = tl.zeros((BLOCK_N, BLOCK_V), tl.float32)
    for start in range(0, joint, BLOCK_J):
        j = start + tl.arange(0, BLOCK_J)
        h = tl.load(
            hidden + n[:, None] * hidden_stride + j[None, :], mask=(n < rows)[:, None] & (j < joint)[None, :], other=0.0
        )
        w = tl.load(
            weight + v[None, :] * joint + j[:, None], mask=(v < classes)[None, :] & (j < joint)[:, None], other=0.0
        )
        total = tl.dot(h, w, total, input_precision=PRECISION)
    total += tl.load(bias + v, mask=v < classes, other=0.0).to(tl.float32)[None, :]
    return tl.where((v < classes)[None, :], total, float("-inf"))


@triton.jit
def _score_kernel(
    hidden: Pointer, weight: Pointer, bias: Pointer, labels: Pointer,
    blank_out: Pointer, label_out: Pointer, normaliser_out: Pointer,
    rows: Any, classes: tl.constexpr, joint: tl.constexpr, hidden_stride: Any, blank: Any, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_J: tl.constexpr,
) -> None:  # fmt: skip
    """Log probabilities of blank and label, and log sum exp, of BLOCK_N rows, over the classes in blocks."""
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    label = tl.load(labels + n, mask=n < rows, other=0)
    top = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    mass = tl.zeros((BLOCK_N,), tl.float32)  # sum of exp(z - top)
    blank_logit = tl.zeros((BLOCK_N,), tl.float32)
    label_logit = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, classes, BLOCK_V):
        v = start + tl.arange(0, BLOCK_V).to(tl.int64)
        z = _logits(
            hidden, weight, bias, n, v, rows, classes, joint, hidden_stride, PRECISION, BLOCK_N, BLOCK_V, BLOCK_J
        )
        higher = tl.maximum(top, tl.max(z, 1))
        mass = mass * tl.exp(top - higher) + tl.sum(tl.exp(z - higher[:, None]), 1)
        top = higher
        blank_logit += tl.sum(tl.where((v == blank)[None, :], z, 0.0), 1)
        label_logit += tl.sum(tl.where(v[None, :] == label[:, None], z, 0.0), 1)
    normaliser = top + tl.log(mass)
    tl.store(blank_out + n, blank_logit - normaliser, mask=n < rows)
    tl.store(label_out + n, label_logit - normaliser, mask=n < rows)
    tl.store(normaliser_out + n, normaliser, mask=n < rows)


@triton.jit
def _gradient_kernel(
    hidden: Pointer, weight: Pointer, bias: Pointer, labels: Pointer,
    blank_posterior: Pointer, label_posterior: Pointer, normaliser: Pointer, gradient: Pointer,
    rows: Any, classes: tl.constexpr, joint: tl.constexpr, hidden_stride: Any, gradient_stride: Any, blank: Any,
    PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_J: tl.constexpr,
) -> None:  # fmt: skip
    """gradient[n, v] = occupancy softmax(z)[v] - blank posterior [v = blank] - label posterior [v = label]."""
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    v = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V).to(tl.int64)
    z = _logits(hidden, weight, bias, n, v, rows, classes, joint, hidden_stride, PRECISION, BLOCK_N, BLOCK_V, BLOCK_J)
    label = tl.load(labels + n, mask=n < rows, other=0)
    by_blank = tl.load(blank_posterior + n, mask=n < rows, other=0.0)
    by_label = tl.load(label_posterior + n, mask=n < rows, other=0.0)
    shift = tl.load(normaliser + n, mask=n < rows, other=0.0)
    out = tl.exp(z - shift[:, None]) * (by_blank + by_label)[:, None]
    out -= tl.where((v == blank)[None, :], by_blank[:, None], 0.0)
    out -= tl.where(v[None, :] == label[:, None], by_label[:, None], 0.0)
    inside = (n < rows)[:, None] & (v < classes)[None, :]
    place = gradient + n[:, None] * gradient_stride + v[None, :]
    tl.store(place, out.to(gradient.dtype.element_ty), mask=inside)


@triton.jit
def _input_gradient_kernel(
    hidden: Pointer, hidden_gradient: Pointer, encoder: Pointer, predictor: Pointer,
    encoder_row: Pointer, predictor_row: Pointer, encoder_total: Pointer, predictor_total: Pointer,
    rows: Any, joint: Any, hidden_stride: Any, gradient_stride: Any,
    ADD: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_J: tl.constexpr,
) -> None:  # fmt: skip
    """Propagate through tanh and add to the rows of the cells (atomically, so that the order is not fixed)."""
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    j = tl.program_id(1) * BLOCK_J + tl.arange(0, BLOCK_J)
    inside = (n < rows)[:, None] & (j < joint)[None, :]
    h = tl.load(hidden + n[:, None] * hidden_stride + j[None, :], mask=inside, other=0.0).to(tl.float32)
    place = hidden_gradient + n[:, None] * gradient_stride + j[None, :]
    through = tl.load(place, mask=inside, other=0.0).to(tl.float32) * (1 - h * h)
    e = tl.load(encoder_row + n, mask=n < rows, other=0)[:, None] * joint + j[None, :]
    p = tl.load(predictor_row + n, mask=n < rows, other=0)[:, None] * joint + j[None, :]
    if ADD:
        tl.atomic_add(encoder_total + e, through, mask=inside)
        tl.atomic_add(predictor_total + p, through, mask=inside)
    else:
        tl.atomic_add(encoder_total + e, through * tl.load(predictor + p, mask=inside, other=0.0), mask=inside)
        tl.atomic_add(predictor_total + p, through * tl.load(encoder + e, mask=inside, other=0.0), mask=inside)


_tune = triton.autotune(BLOCKS, key=["classes", "joint"])
_tuned_score_kernel, _tuned_gradient_kernel = _tune(_score_kernel), _tune(_gradient_kernel)
