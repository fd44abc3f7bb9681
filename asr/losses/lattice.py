"""The transducer lattice: sums and maxima over all alignments, given the log probabilities of its arcs.

A cell (t, u) means "at frame t, u labels emitted". Its blank arc leads to (t+1, u), its label arc to (t, u+1). Cells of
one anti-diagonal d = t + u depend only on the neighbouring diagonal, so the recursions of Graves (2012, arXiv
1211.3711, eq. 16-18) take one vectorised step per diagonal, for all utterances at once. Past its end an utterance waits
at no cost in the virtual cell (T, U), until the longest one has ended: a ragged batch needs no special cases.

B utterances   T frames   U labels   S = U + 1   D diagonals, T + U + 1 of the longest utterance
Skewed tensors x_DBS hold cell (t, u) of utterance b at [t + u, b, u].
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Merge = Callable[..., Tensor]  # joins two paths into a cell: torch.logaddexp for sums, torch.maximum for the best
ARC_DTYPE = torch.float64  # V times smaller than the logits, so double precision costs nothing here (docs/loss.md)


@dataclass(frozen=True, slots=True)
class Shape:
    """Lengths of a ragged batch, on the host. Cells are packed: utterance after utterance, frame after frame."""

    frames: tuple[int, ...]  # T of each utterance
    states: tuple[int, ...]  # S = U + 1 of each utterance

    @property
    def cells(self) -> list[int]:
        """Number of cells of each utterance."""
        return [frames * states for frames, states in zip(self.frames, self.states, strict=True)]

    @property
    def diagonals(self) -> int:
        """D, the number of diagonals of the longest utterance, its virtual end included."""
        return max(frames + states for frames, states in zip(self.frames, self.states, strict=True))


@dataclass(frozen=True, slots=True)
class Arcs:
    """Log probabilities of the arcs that leave each cell, as skewed tensors; -inf where there is no arc."""

    shape: Shape
    blank_DBS: Tensor
    label_DBS: Tensor


def cell_views(x_DBS: Tensor, shape: Shape) -> list[Tensor]:
    """The (T, S) cells of each utterance as views of a skewed tensor: writing to them skews, reading unskews."""
    _, batch, states = x_DBS.shape
    strides = (batch * states, batch * states + 1)
    sizes = zip(shape.frames, shape.states, strict=True)
    return [x_DBS.as_strided(size, strides, index * states) for index, size in enumerate(sizes)]


def unpack(packed_N: Tensor, shape: Shape) -> list[Tensor]:
    """The (T, S) cells of each utterance as views of packed cells."""
    parts = packed_N.split(shape.cells)
    return [part.view(size) for part, size in zip(parts, zip(shape.frames, shape.states, strict=True), strict=True)]


def arcs_from_packed(blank_N: Tensor, label_N: Tensor, shape: Shape) -> Arcs:
    """Skew packed log probabilities; label values at u = U, where nothing is left to emit, are ignored."""
    size = (shape.diagonals, len(shape.frames), max(shape.states))
    blank_DBS = blank_N.new_full(size, -torch.inf, dtype=ARC_DTYPE)
    label_DBS = torch.full_like(blank_DBS, -torch.inf)
    for source, target in zip(unpack(blank_N, shape), cell_views(blank_DBS, shape), strict=True):
        target.copy_(source)
    for source, target in zip(unpack(label_N, shape), cell_views(label_DBS, shape), strict=True):
        target[:, :-1].copy_(source[:, :-1])
    for index, (frames, states) in enumerate(zip(shape.frames, shape.states, strict=True)):
        blank_DBS[frames + states - 1 :, index, states - 1] = 0.0  # waiting at the virtual end
    return Arcs(shape, blank_DBS, label_DBS)


def forward_variables(arcs: Arcs, merge: Merge = torch.logaddexp) -> Tensor:
    """log alpha, skewed: alpha(t, u) = alpha(t-1, u) blank(t-1, u) + alpha(t, u-1) label(t, u-1)   (eq. 16)."""
    alpha_DBS = torch.full_like(arcs.blank_DBS, -torch.inf)
    alpha_DBS[0, :, 0] = 0.0
    by_blank_BS, by_label_BS = torch.full_like(alpha_DBS[:2], -torch.inf)
    arrived_BS = by_label_BS[:, 1:]
    diagonals = list(alpha_DBS.unbind())
    blanks, labels = arcs.blank_DBS.unbind(), arcs.label_DBS[:, :, :-1].unbind()
    origins = alpha_DBS[:, :, :-1].unbind()
    for d in range(1, len(diagonals)):
        torch.add(diagonals[d - 1], blanks[d - 1], out=by_blank_BS)
        torch.add(origins[d - 1], labels[d - 1], out=arrived_BS)
        merge(by_blank_BS, by_label_BS, out=diagonals[d])
    return alpha_DBS


def backward_variables(arcs: Arcs, merge: Merge = torch.logaddexp) -> Tensor:
    """log beta, skewed: beta(t, u) = beta(t+1, u) blank(t, u) + beta(t, u+1) label(t, u), beta(T, U) = 1   (eq. 18)."""
    beta_DBS = torch.full_like(arcs.blank_DBS, -torch.inf)
    for index, states in enumerate(arcs.shape.states):
        beta_DBS[-1, index, states - 1] = 0.0
    by_blank_BS, by_label_BS = torch.full_like(beta_DBS[:2], -torch.inf)
    departed_BS = by_label_BS[:, :-1]
    diagonals = list(beta_DBS.unbind())
    blanks, labels = arcs.blank_DBS.unbind(), arcs.label_DBS[:, :, :-1].unbind()
    successors = beta_DBS[:, :, 1:].unbind()
    for d in range(len(diagonals) - 2, -1, -1):
        torch.add(diagonals[d + 1], blanks[d], out=by_blank_BS)
        torch.add(successors[d + 1], labels[d], out=departed_BS)
        merge(by_blank_BS, by_label_BS, out=diagonals[d])
    return beta_DBS


def log_likelihood(alpha_DBS: Tensor, shape: Shape) -> Tensor:
    """log Pr(y|x) of each utterance, (B,): alpha at the virtual end   (eq. 17)."""
    ends_B = torch.tensor(shape.states, device=alpha_DBS.device) - 1
    return alpha_DBS[-1].gather(1, ends_B[:, None]).squeeze(1)


def arc_posteriors(arcs: Arcs, alpha_DBS: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Posterior probability that an alignment takes the blank and the label arc of each cell; packed, (N,) each.

    Their sum is the cell's occupancy, since an alignment leaves each cell that it visits by one of the two arcs.
    """
    beta_DBS = backward_variables(arcs)
    origin_DBS = alpha_DBS - log_likelihood(alpha_DBS, arcs.shape)[:, None]
    blank_DBS = (origin_DBS + arcs.blank_DBS)[:-1].add_(beta_DBS[1:]).exp_()
    label_DBS = (origin_DBS + arcs.label_DBS)[:-1]
    label_DBS[:, :, :-1].add_(beta_DBS[1:, :, 1:])
    return pack(blank_DBS, arcs.shape, dtype), pack(label_DBS.exp_(), arcs.shape, dtype)


def pack(x_DBS: Tensor, shape: Shape, dtype: torch.dtype) -> Tensor:
    """Pack the cells of a skewed tensor, (N,)."""
    packed_N = x_DBS.new_empty(sum(shape.cells), dtype=dtype)
    for source, target in zip(cell_views(x_DBS, shape), unpack(packed_N, shape), strict=True):
        target.copy_(source)
    return packed_N
