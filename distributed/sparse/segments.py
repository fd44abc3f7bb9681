"""Segments: stretches of the flat buffers that are compressed at one rate, and the messages that are made of them.

Why: a model has hundreds of parameters but few rates. Parameters of one rate lie together (``FlatParameters``' order),
so that one pass per segment selects for all of them; a chunk may reach from one parameter into the next. The choice of
entries of a segment is an index: positions of shape (k,), or ``EVERYTHING`` where its rate is 1.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distributed.parameters.flat_parameters import FlatParameters
from distributed.values.selection import chunks, largest_of_chunks, offset_dtype, positions_of, update_memory

EVERYTHING = slice(None)
Index = Tensor | slice
Entries = tuple["Segment", Index, Tensor]  # (segment, index of its chosen entries, their values (k,))
MESSAGE_ALIGNMENT_BYTES = 4
NEVER_SENT = 1 << 62  # in place of a rate, larger than all: sorts frozen parameters behind the others


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of one of several flat buffers, of which one entry in ``rate`` is sent."""

    buffer: int
    start: int
    length: int
    rate: int
    bucket: int = 0  # number of the bucket; buckets are sent one after the other

    def of(self, buffers: Sequence[Tensor]) -> Tensor:
        """This segment's part of ``buffers``, a view of shape (length,)."""
        return buffers[self.buffer][self.start : self.start + self.length]

    @property
    def chosen(self) -> int:
        """Number of entries that are sent."""
        return chunks(self.length, self.rate)


def by_rate(rates: Mapping[str, int], buckets: Mapping[str, int]) -> Callable[[str, nn.Parameter], tuple[int, ...]]:
    """The order of parameters, for ``FlatParameters``, in which those of a bucket and rate lie together."""
    return lambda name, _: (buckets.get(name, 0), rates[name]) if name in rates else (NEVER_SENT,)


def segments_of(flat: FlatParameters, rates: Mapping[str, int], buckets: Mapping[str, int]) -> list[Segment]:
    """The stretches of ``flat``, whose parameters lie in the order of buckets and rates, by name; those of rate 1 are dense.

    Parameters without a rate lie behind the others, and in no segment; those without a bucket are in bucket 0.
    """
    found = []
    starts: dict[tuple[int, int, int], int] = {}  # first element, by (buffer, rate, bucket)
    places = {buffer.data_ptr(): index for index, buffer in enumerate(flat.flat)}
    for name, view in flat.named_views(flat.flat).items():
        buffer = places[view.untyped_storage().data_ptr()]
        key = (buffer, rates.get(name, NEVER_SENT), buckets.get(name, 0))
        starts.setdefault(key, int(view.storage_offset()))
    for buffer, tensor in enumerate(flat.flat):
        begins = [(start, *key) for (index, *key), start in starts.items() if index == buffer]
        ends = [start for start, *_ in begins[1:]] + [tensor.numel()]
        for (start, rate, bucket), end in zip(begins, ends, strict=True):
            if rate != NEVER_SENT:
                found.append(Segment(buffer, start, end - start, rate, bucket))
    return found


def largest_offsets(segments: Sequence[Segment], memory: Sequence[Tensor], gradient: Sequence[Tensor]) -> list[Tensor]:
    """For each sparse segment, the offsets (k,) of the entry with the largest |m + g| in each chunk."""
    return [
        largest_of_chunks(segment.of(memory), segment.of(gradient), segment.rate)
        for segment in segments
        if segment.rate != 1
    ]


def gathered(segments: Sequence[Segment], buffers: Sequence[Tensor], indices: Sequence[Index]) -> Tensor:
    """The chosen entries of all segments as one vector, in their widest dtype."""
    return torch.cat([segment.of(buffers)[index] for segment, index in zip(segments, indices, strict=True)])


def entries(segments: Sequence[Segment], indices: Sequence[Index], values: Tensor) -> list[Entries]:
    """Split a vector made by ``gathered`` into the entries of each segment."""
    return list(zip(segments, indices, values.split([segment.chosen for segment in segments]), strict=True))


def taken(
    segments: Sequence[Segment],
    memory: Sequence[Tensor],
    gradient: Sequence[Tensor],
    indices: Sequence[Index],
    in_bfloat16: bool,
) -> tuple[Tensor, Tensor]:
    """A learner's m + g at the chosen positions, rounded as it is sent, and the rest that rounding takes from it."""
    values = gathered(segments, memory, indices).add_(gathered(segments, gradient, indices))
    message = values.to(torch.bfloat16 if in_bfloat16 else values.dtype, copy=True)
    return message, values.sub_(message)


def remember(memory: Sequence[Tensor], gradient: Sequence[Tensor], unsent: Sequence[Entries], beta: float) -> None:
    """Update a learner's memory with its gradient and what it did not send; in place."""
    for segment, index, rest in unsent:
        own = segment.of(memory)
        update_memory(own, segment.of(gradient), index, rest.to(own.dtype), beta)


def add_entries(buffers: Sequence[Tensor], agreed: Sequence[Entries]) -> None:
    """Add the agreed entries to ``buffers``, in place."""
    for segment, index, values in agreed:
        target = segment.of(buffers)
        target[index] += values.to(target.dtype)


def elements_sent_whole(segments: Sequence[Segment]) -> int:
    """Number of chosen entries that belong to dense segments, those of rate 1."""
    return sum(segment.length for segment in segments if segment.rate == 1)


def largest_indices(segments: Sequence[Segment], memory: Sequence[Tensor], gradient: Sequence[Tensor]) -> list[Index]:
    """The index of each segment that a learner chooses: the largest entry of |m + g| in each chunk, or everything."""
    sparse = [segment for segment in segments if segment.rate != 1]
    offsets = zip(sparse, largest_offsets(segments, memory, gradient), strict=True)
    positions = (positions_of(own, segment.rate) for segment, own in offsets)
    return [EVERYTHING if segment.rate == 1 else next(positions) for segment in segments]


class Offsets:
    """The offsets of all sparse segments as one message of bytes, each in the smallest type that holds them."""

    def __init__(self, segments: Sequence[Segment], device: torch.device) -> None:
        self._segments = segments
        self._places: list[tuple[int, int]] = []
        size = 0
        for segment in segments:
            length = 0 if segment.rate == 1 else segment.chosen * offset_dtype(segment.rate).itemsize
            self._places.append((size, length))
            size += -(-length // MESSAGE_ALIGNMENT_BYTES) * MESSAGE_ALIGNMENT_BYTES
        self.message = torch.zeros(size, dtype=torch.uint8, device=device)

    def write(self, offsets: Sequence[Tensor]) -> None:
        """Write the offsets (k,) of each sparse segment into the message."""
        for (_, part), own in zip(self._sparse_parts(self.message), offsets, strict=True):
            part.copy_(own)

    def indices(self, message: Tensor) -> list[Index]:
        """The index of each segment that a message of this layout encodes."""
        sparse = (positions_of(part.long(), segment.rate) for segment, part in self._sparse_parts(message))
        return [EVERYTHING if segment.rate == 1 else next(sparse) for segment in self._segments]

    def _sparse_parts(self, message: Tensor) -> Iterator[tuple[Segment, Tensor]]:
        for segment, (start, length) in zip(self._segments, self._places, strict=True):
            if segment.rate != 1:
                yield segment, message[start : start + length].view(offset_dtype(segment.rate))
