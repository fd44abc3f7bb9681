"""The joiner over tiles of lattice cells: log probabilities of their arcs, and gradients, so that (B, T, U, V) never exists.

Sums e + p (or e * p) are gathered row by row and gradients are added back row by row, so that a tile may leave out
whatever cells are not wanted. With occupancy = blank posterior + label posterior, the gradient in a cell is

    d(-log P)/dz[k] = occupancy softmax(z)[k] - blank posterior [k = blank] - label posterior [k = y(u+1)]

which sums to zero over k. Where a model is confident, the entry of one arc is the small difference of two numbers near
one and would be mostly rounding error; computed as minus the sum of the other entries it is as exact as they are.

R encoder rows   Q predictor rows   J joint dimension   V classes with blank   n cells of a tile
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from asr.losses.cells import CellIndex, Cells
from asr.losses.inputs import Combine, Tensors
from asr.losses.squashing import Squashing


@dataclass(slots=True)
class Workspace:
    """Buffers that successive tiles reuse, since allocating them anew would cost as much time as filling them."""

    device: torch.device
    held: dict[str, Tensor] = field(default_factory=dict)

    def take(self, name: str, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The buffer of that name; its content is left over from its last use."""
        tensor = self.held.get(name)
        if tensor is None or len(tensor) < size[0]:
            tensor = self.held[name] = torch.empty(size, dtype=dtype, device=self.device)
        return tensor[: size[0]]


LOCATED_CELLS = 2**20  # cells whose rows are looked up at a time: 24 MiB, and a few operators for many tiles


@dataclass(frozen=True, slots=True)
class Scores:
    """The values that forward keeps for each packed cell, (N,) each, in place of V logits."""

    blank_N: Tensor  # log probability
    label_N: Tensor  # log probability of the next label
    normaliser_N: Tensor  # log sum exp z


@dataclass(frozen=True, slots=True)
class Kept:
    """The cells that backward visits: their indices among the packed cells, posteriors and normalisers, (K,) each."""

    packed_K: Tensor
    blank_K: Tensor  # posterior of the blank arc, times the factor of the utterance's loss
    label_K: Tensor  # posterior of the label arc, likewise
    normaliser_K: Tensor

    def part(self, start: int, stop: int) -> "Kept":
        """The kept cells from ``start`` to ``stop``."""
        tensors = (self.packed_K, self.blank_K, self.label_K, self.normaliser_K)
        return Kept(*(tensor[start:stop] for tensor in tensors))


@dataclass(slots=True)
class Gradients:
    """Gradients accumulated over tiles, in no narrower dtype than the softmax's."""

    encoder_RJ: Tensor
    predictor_QJ: Tensor
    weight_VJ: Tensor
    bias_V: Tensor

    @staticmethod
    def zeros(tensors: Tensors, dtype: torch.dtype) -> "Gradients":
        """Zero gradients for ``tensors``."""
        encoder_BTJ, predictor_BSJ, weight_VJ, bias_V = (torch.zeros_like(tensor, dtype=dtype) for tensor in tensors)
        return Gradients(encoder_BTJ.flatten(0, 1), predictor_BSJ.flatten(0, 1), weight_VJ, bias_V)

    def like(self, tensors: Tensors) -> Tensors:
        """The gradients in the shapes and dtypes of ``tensors``."""
        sums = (self.encoder_RJ, self.predictor_QJ, self.weight_VJ, self.bias_V)
        encoder_BTJ, predictor_BSJ, weight_VJ, bias_V = (
            total.view_as(tensor).to(tensor.dtype) for total, tensor in zip(sums, tensors, strict=True)
        )
        return encoder_BTJ, predictor_BSJ, weight_VJ, bias_V


class TiledJoiner:
    """The joiner's tensors, ready for one tile after the other. Plain PyTorch; on any device."""

    def __init__(
        self,
        tensors: Tensors,
        index: CellIndex,
        *,
        combine: Combine,
        squashing: Squashing,
        blank: int,
        tile_cells: int,
        dtype: torch.dtype,
    ) -> None:
        encoder_BTJ, predictor_BSJ, weight_VJ, bias_V = (tensor.detach() for tensor in tensors)
        self.index, self.combine, self.squashing = index, combine, squashing
        self.blank, self.tile_cells = blank, tile_cells
        self.dtype = dtype  # dtype of the matrix products
        self.wide = torch.promote_types(dtype, torch.float32)  # dtype of all other operations
        self.encoder_RJ = encoder_BTJ.flatten(0, 1).to(self.wide).contiguous()
        self.predictor_QJ = predictor_BSJ.flatten(0, 1).to(self.wide).contiguous()
        self.weight_VJ = weight_VJ.to(dtype).contiguous()
        self.weight_JV = self.weight_VJ.t().contiguous()
        self.bias_V = bias_V.to(dtype)
        self.space = Workspace(encoder_BTJ.device)

    def score(self, open_n: Tensor, cells: int) -> Scores:
        """Score the cells at these indices among ``cells`` packed ones; the other cells get no arcs."""
        blank_N, label_N = torch.full((2, cells), -torch.inf, dtype=self.wide, device=self.space.device)
        normaliser_N = torch.zeros_like(blank_N)
        for packed_n, tile in self._tiles(open_n):
            blank_N[packed_n], label_N[packed_n], normaliser_N[packed_n] = self._score(self._hidden(tile)[0], tile)
        return Scores(blank_N, label_N, normaliser_N)

    def add_gradients(self, kept: Kept, total: Gradients) -> None:
        """Add the gradients from some of the packed cells, given the posteriors of the arcs that leave them."""
        start = 0
        for packed_n, tile in self._tiles(kept.packed_K):
            part = kept.part(start, start := start + len(packed_n))
            hidden_nJ, kept_nJ = self._hidden(tile)
            gradient_nV = self._logits_gradient(hidden_nJ, tile, part)
            surest_n = torch.where(part.blank_K.abs() > part.label_K.abs(), self.blank, tile.label_n)
            balance(gradient_nV, surest_n, self.wide)
            total.bias_V += gradient_nV.sum(0, dtype=self.wide)
            gradient_nV = self._narrow("gradient", gradient_nV)
            _add_product(total.weight_VJ, gradient_nV.t(), self._narrow("hidden", hidden_nJ))
            hidden_gradient_nJ = self.space.take("hidden gradient", hidden_nJ.shape, self.dtype)
            torch.mm(gradient_nV, self.weight_VJ, out=hidden_gradient_nJ)
            self._add_input_gradients(tile, kept_nJ, hidden_gradient_nJ, total)

    def _tiles(self, packed_n: Tensor) -> Iterator[tuple[Tensor, Cells]]:
        """Cut cells into tiles: their indices among the packed cells, and their rows."""
        for some_n in packed_n.split(max(1, LOCATED_CELLS // self.tile_cells) * self.tile_cells):
            cells = self.index.locate(some_n)
            tiles = (
                each.split(self.tile_cells) for each in (some_n, cells.encoder_n, cells.predictor_n, cells.label_n)
            )
            for indices_n, *rows in zip(*tiles, strict=True):
                yield indices_n, Cells(*rows)

    def _hidden(self, tile: Cells) -> tuple[Tensor, Tensor]:
        """The squashed e + p, or product, (n, J), and what its backward needs."""
        rows, joint = len(tile.encoder_n), self.encoder_RJ.shape[1]
        sum_nJ = self.space.take("sum", (rows, joint), self.wide)
        other_nJ = self.space.take("other", (rows, joint), self.wide)
        torch.index_select(self.encoder_RJ, 0, tile.encoder_n, out=sum_nJ)
        torch.index_select(self.predictor_QJ, 0, tile.predictor_n, out=other_nJ)
        if self.combine == "add":
            sum_nJ += other_nJ
        else:
            sum_nJ *= other_nJ
        return self.squashing.squash_(sum_nJ)

    def _logits(self, hidden_nJ: Tensor) -> Tensor:
        logits_nV = self.space.take("logits", (len(hidden_nJ), len(self.bias_V)), self.dtype)
        return torch.addmm(self.bias_V, self._narrow("hidden", hidden_nJ), self.weight_JV, out=logits_nV)

    def _score(self, hidden_nJ: Tensor, tile: Cells) -> tuple[Tensor, Tensor, Tensor]:
        """Log probabilities of blank and of the next label, and log sum exp z, (n,) each."""
        logits_nV = self._logits(hidden_nJ)
        log_probs_nV = self.space.take("probabilities", logits_nV.shape, self.wide)
        torch.log_softmax(logits_nV, -1, dtype=self.wide, out=log_probs_nV)
        blank_n = log_probs_nV[:, self.blank]
        label_n = log_probs_nV.gather(1, tile.label_n[:, None]).squeeze(1)
        return blank_n, label_n, logits_nV[:, self.blank] - blank_n

    def _logits_gradient(self, hidden_nJ: Tensor, tile: Cells, kept: Kept) -> Tensor:
        """Gradient of the logits, (n, V)."""
        logits_nV = self._logits(hidden_nJ)
        gradient_nV = self.space.take("probabilities", logits_nV.shape, self.wide)
        torch.sub(logits_nV, kept.normaliser_K[:, None], out=gradient_nV).exp_()
        gradient_nV.mul_((kept.blank_K + kept.label_K)[:, None])
        gradient_nV[:, self.blank] -= kept.blank_K
        return gradient_nV.scatter_add_(1, tile.label_n[:, None], -kept.label_K[:, None])

    def _add_input_gradients(self, tile: Cells, kept_nJ: Tensor, hidden_gradient_nJ: Tensor, total: Gradients) -> None:
        """Propagate the gradient through the squashing; sum over u for the encoder, over t for the predictor."""
        sum_nJ = self.space.take("other", hidden_gradient_nJ.shape, self.wide).copy_(hidden_gradient_nJ)
        self.squashing.backward_(sum_nJ, kept_nJ)
        if self.combine == "add":
            total.encoder_RJ.index_add_(0, tile.encoder_n, sum_nJ)
            total.predictor_QJ.index_add_(0, tile.predictor_n, sum_nJ)
        else:
            predictor_nJ, encoder_nJ = self.predictor_QJ[tile.predictor_n], self.encoder_RJ[tile.encoder_n]
            total.encoder_RJ.index_add_(0, tile.encoder_n, predictor_nJ.mul_(sum_nJ))
            total.predictor_QJ.index_add_(0, tile.predictor_n, encoder_nJ.mul_(sum_nJ))

    def _narrow(self, name: str, x_nX: Tensor) -> Tensor:
        """The tensor in the dtype of the matrix products."""
        if x_nX.dtype == self.dtype:
            return x_nX
        return self.space.take(f"narrow {name}", x_nX.shape, self.dtype).copy_(x_nX)


def balance(gradient_nV: Tensor, class_n: Tensor, wide: torch.dtype) -> None:
    """Change the entry ``class_n`` of each row, in place, so that the row sums to zero."""
    gradient_nV.scatter_(1, class_n[:, None], 0.0)
    others_n1 = gradient_nV.sum(1, keepdim=True, dtype=wide)
    gradient_nV.scatter_(1, class_n[:, None], others_n1.neg_().to(gradient_nV.dtype))


def _add_product(total_VJ: Tensor, left_Vn: Tensor, right_nJ: Tensor) -> None:
    """Add left @ right to ``total`` in place; the product may have a narrower dtype."""
    if total_VJ.dtype == left_Vn.dtype:
        torch.addmm(total_VJ, left_Vn, right_nJ, out=total_VJ)
    else:
        total_VJ += left_Vn @ right_nJ
