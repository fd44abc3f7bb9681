"""The joiner over the lattice cells of a ragged batch, one tile of cells at a time, so that (B, T, U, V) never exists.

Cells are packed: only valid ones are computed. A tile is a run of packed cells, made of pieces; a piece is a block of
frames of one utterance, so that its (frames, S) cells are one broadcast sum, and a frame never lies in two pieces.

B utterances   T frames   S = U + 1 states   J joint dimension   V classes with blank   N valid cells   n cells of a tile
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from asr.losses.lattice import Shape

Combine = Literal["add", "multiply"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Frames ``start:stop`` of one utterance, at the rows ``row:row + (stop - start) * states`` of its tile."""

    utterance: int
    start: int
    stop: int
    states: int
    row: int

    def cells(self, tile_nX: Tensor) -> Tensor:
        """The piece's rows of a tile's tensor as (frames, S, X)."""
        rows = (self.stop - self.start) * self.states
        return tile_nX.narrow(0, self.row, rows).view(self.stop - self.start, self.states, -1)


@dataclass(slots=True)
class Tile:
    """The packed cells ``first:first + size``."""

    first: int
    size: int
    pieces: list[Piece]


def cut_tiles(shape: Shape, tile_cells: int) -> list[Tile]:
    """Cut the packed cells into tiles of at most ``tile_cells`` cells (of one frame, where a frame has more)."""
    tiles = [Tile(0, 0, [])]
    for utterance, (frames, states) in enumerate(zip(shape.frames, shape.states, strict=True)):
        start = 0
        while start < frames:
            tile = tiles[-1]
            room = max(tile_cells - tile.size, 0) // states
            if not room and tile.size:
                tiles.append(Tile(tile.first + tile.size, 0, []))
                continue
            stop = min(frames, start + max(room, 1))
            tile.pieces.append(Piece(utterance, start, stop, states, tile.size))
            tile.size += (stop - start) * states
            start = stop
    return tiles


@dataclass(slots=True)
class Joint:
    """The joiner's tensors in the dtype of its matrix products, and buffers for one tile, reused by all of them."""

    encoder_BTJ: Tensor
    predictor_BSJ: Tensor
    weight_VJ: Tensor
    bias_V: Tensor
    combine: Combine
    hidden_nJ: Tensor
    logits_nV: Tensor

    @staticmethod
    def build(
        tensors: tuple[Tensor, Tensor, Tensor, Tensor], dtype: torch.dtype, combine: Combine, tiles: list[Tile]
    ) -> "Joint":
        """Cast (encoder_BTJ, predictor_BSJ, weight_VJ, bias_V) to ``dtype`` and allocate the buffers."""
        encoder_BTJ, predictor_BSJ, weight_VJ, bias_V = (tensor.detach().to(dtype) for tensor in tensors)
        rows = max(tile.size for tile in tiles)
        classes, width = weight_VJ.shape
        hidden_nJ, logits_nV = weight_VJ.new_empty(rows, width), weight_VJ.new_empty(rows, classes)
        return Joint(encoder_BTJ, predictor_BSJ, weight_VJ, bias_V, combine, hidden_nJ, logits_nV)

    def compute(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """Hidden layer (n, J) and logits (n, V) of a tile, in the buffers: z = W tanh(e + p) + b, or with e * p."""
        hidden_nJ, logits_nV = self.hidden_nJ[: tile.size], self.logits_nV[: tile.size]
        merge = torch.add if self.combine == "add" else torch.mul
        for piece in tile.pieces:
            encoder_t1J = self.encoder_BTJ[piece.utterance, piece.start : piece.stop, None]
            predictor_SJ = self.predictor_BSJ[piece.utterance, : piece.states]
            merge(encoder_t1J, predictor_SJ, out=piece.cells(hidden_nJ))
        hidden_nJ.tanh_()
        torch.addmm(self.bias_V, hidden_nJ, self.weight_VJ.t(), out=logits_nV)
        return hidden_nJ, logits_nV
