"""Sizes of Conformer blocks that differ from block to block, as they do in a pruned model.

model.encoder.blocks=[{feed_forward_in: 320, heads: 3, channels: 96, feed_forward_out: 0}, ...]    # 0: no such module

A block may have a width of its own: ``width: [0, 3, 4]`` are the entries of the states that its modules read and add to. The
others pass it as they are.
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
    width: Sequence[int] | None = None  # entries of the states that the modules read and add to, ascending; None: all


def sizes_of(blocks: Sequence[Mapping[str, int | list[int]]], layers: int, dimension: int) -> list[BlockSizes]:
    """The sizes that ``model.encoder.blocks`` gives, of blocks whose states have ``dimension`` entries.

    Raises:
        UsageError: it has not ``layers`` entries with all fields, or a field is not what it must be.
    """
    if len(blocks) != layers:
        raise UsageError(
            f"model.encoder.blocks has {len(blocks)} entries and model.encoder.layers={layers}; give one entry a layer"
        )
    return [_sizes_of_one(block, f"model.encoder.blocks[{index}]", dimension) for index, block in enumerate(blocks)]


def _sizes_of_one(block: Mapping[str, int | list[int]], key: str, dimension: int) -> BlockSizes:
    """The sizes of one block, which errors call ``key``."""
    *counts, own = BlockSizes._fields
    if block.keys() - {own} != set(counts):
        raise UsageError(
            f"{key} has {', '.join(sorted(block)) or 'no fields'}; it must have {', '.join(counts)}, 0 where there is no such "
            f"module, and may have {own}"
        )
    numbers = {name: value for name in counts if isinstance(value := block[name], int)}
    if len(numbers) < len(counts):
        wrong = next(name for name in counts if name not in numbers)
        raise UsageError(f"{key}.{wrong}={block[wrong]}: must be a whole number; only {own} is a list")
    width = block.get(own)
    if width is not None and not (isinstance(width, list) and _are_entries(width, dimension)):
        raise UsageError(
            f"{key}.{own}={width}: must be a list of at least one entry of the states, ascending, from 0 to {dimension - 1} "
            f"(model.encoder.dimension={dimension}); leave it out where a block reads all of them"
        )
    return BlockSizes(**numbers, width=width)


def _are_entries(width: Sequence[int], dimension: int) -> bool:
    """Whether these are different entries of states of a dimension, in order."""
    return list(width) == sorted(set(width)) and len(width) > 0 and width[0] >= 0 and width[-1] < dimension


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
