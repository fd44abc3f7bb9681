"""Several flat buffers as one message per dtype, in host memory.

Weights and optimizer moments travel together: one message, one snapshot, one fold. Messages lie in host memory, pinned
where the model is on a GPU: the link is the bottleneck, not the copy, and a neighbour that dies cannot hang a GPU.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Message = list[Tensor]  # one tensor of shape (elements,) per dtype
Piece = tuple[int, slice]  # (part of the message, entries of it)


class Packing:
    """Layout of ``buffers``, shapes (elements,), in a message: copies them in and out.

    Each tensor of a message is filled up with zeros to a multiple of ``shares`` elements, so that it can be cut into
    equal parts.
    """

    def __init__(self, buffers: Sequence[Tensor], shares: int = 1) -> None:
        self.buffers = buffers
        self._pinned = any(buffer.is_cuda for buffer in buffers)
        self._places: list[tuple[int, int]] = []  # for each buffer: (tensor of the message, first element in it)
        self._lengths: dict[torch.dtype, int] = {}
        for buffer in buffers:
            start = self._lengths.get(buffer.dtype, 0)
            self._lengths[buffer.dtype] = start + buffer.numel()
            self._places.append((list(self._lengths).index(buffer.dtype), start))
        for dtype, length in self._lengths.items():
            self._lengths[dtype] = -(-length // shares) * shares

    def message(self) -> Message:
        """A message of zeros."""
        return [torch.zeros(n, dtype=dtype, pin_memory=self._pinned) for dtype, n in self._lengths.items()]

    def take_snapshot(self, message: Message) -> None:
        """Copy the buffers into a message."""
        for buffer, part in zip(self.buffers, self._parts(message), strict=True):
            part.copy_(buffer)

    def take_sum(self, message: Message, differences: Message, scale: float) -> None:
        """Write buffers + ``scale`` x ``differences`` into ``message``; on the host this is one pass over memory."""
        for buffer, part, difference in zip(self.buffers, self._parts(message), self._parts(differences), strict=True):
            if buffer.is_cuda:
                part.copy_(buffer).add_(difference, alpha=scale)
            else:
                torch.add(buffer, difference, alpha=scale, out=part)

    def add(self, differences: Message, scale: float = 1.0) -> None:
        """Add ``scale`` x ``differences`` to the buffers; the message may be overwritten once this returns."""
        for buffer, part in zip(self.buffers, self._parts(differences), strict=True):
            buffer.add_(part.to(buffer.device), alpha=scale)

    def _parts(self, message: Message) -> list[Tensor]:
        """A view of the message for each buffer."""
        return [
            message[index][start : start + buffer.numel()]
            for buffer, (index, start) in zip(self.buffers, self._places, strict=True)
        ]
