"""Sizes of Conformer blocks that differ from block to block, as they do in a pruned model.

model.encoder.blocks=[{feed_forward_in: 320, heads: 3, channels: 96, feed_forward_out: 0}, ...]    # 0: no such module
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from distributed.errors import UsageError


class BlockSizes(NamedTuple):
    """The sizes of the modules of one block; a module of size 0 is absent."""

    feed_forward_in: int  # hidden width of the first feed-forward module
    heads: int  # attention heads
    channels: int  # channels of the depthwise convolution
    feed_forward_out: int  # hidden width of the second feed-forward module


def sizes_of(blocks: Sequence[Mapping[str, int]], layers: int) -> list[BlockSizes]:
    """The sizes that ``model.encoder.blocks`` gives; ValueError unless it has ``layers`` entries with all fields."""
    if len(blocks) != layers:
        raise UsageError(
            f"model.encoder.blocks has {len(blocks)} entries and model.encoder.layers={layers}; give one entry a layer"
        )
    for index, block in enumerate(blocks):
        if block.keys() != set(BlockSizes._fields):
            raise UsageError(
                f"model.encoder.blocks[{index}] has {', '.join(sorted(block)) or 'no fields'}; "
                f"it must have {', '.join(BlockSizes._fields)}, 0 where there is no such module"
            )
    return [BlockSizes(**block) for block in blocks]


def head_size(dimension: int, heads: int, head_dimension: int | None) -> int:
    """Size of one attention head, equal in all blocks: ``head_dimension``, or if None ``dimension`` / ``heads``."""
    if head_dimension is not None:
        return head_dimension
    if dimension % heads:
        raise UsageError(
            f"model.encoder.heads must divide model.encoder.dimension = {dimension}, got {heads}; "
            "or set model.encoder.head_dimension"
        )
    return dimension // heads


def table_width(dimension: int, position_dimension: int | None) -> int:
    """Number of columns in the table of relative positions (sine and cosine pairs); ``dimension`` where it is None.

    The frequencies depend on this number, so that a model made narrower keeps the number of the original model.
    """
    width = dimension if position_dimension is None else position_dimension
    if width % 2:
        key = "dimension" if position_dimension is None else "position_dimension"
        remedy = ", or set model.encoder.position_dimension" if position_dimension is None else ""
        raise UsageError(f"model.encoder.{key} must be even (sine and cosine pairs), got {width}{remedy}")
    return width
