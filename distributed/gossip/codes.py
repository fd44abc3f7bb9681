"""How the difference between a learner's weights and what another one knows of them travels: the compression operators.

A code writes q = Q(s - m) as a message of bytes, and reads it again: the replica m grows by bitwise the same q at both ends of
a stream.

    bf16    half of fp32's bytes                            an entry's error is at most 2^-8 of itself
    int8    a quarter, and a scale for 256 entries          at most 1/254 of the largest of them
    int4    an eighth, and a scale for 256 entries          at most 1/14 of the largest of them
    topk    the largest entry of each chunk, in bf16, with its offset; the others are not sent

s, m: shape (N,) of a floating dtype, on the host; messages uint8, shape (bytes,).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from distributed.values.integers import CHUNK, IntegerBits, code_bytes, dequantised, number_of_scales, quantise
from distributed.values.payload import Payload
from distributed.values.selection import (
    chunks,
    largest_of_differences,
    offset_dtype,
    positions_of,
)

Compression = Literal["none", "bf16", "int8", "int4", "topk"]
BLOCK = 1 << 17  # entries that are handled at once: few enough for a processor's cache, enough that calls cost little
ALIGNMENT_BYTES = 8  # of the sections of a message, so that each is a view of it
Section = tuple[torch.dtype, int]  # (dtype, elements)


class Code(ABC):
    """One way to write differences. The layout of a message depends on the number of entries alone."""

    consensus_step: float  # gamma that suits it: see distributed/gossip/replicas.py

    @abstractmethod
    def _sections(self, length: int) -> tuple[Section, Section]:
        """What lies in the message of ``length`` entries: floating numbers, then whole numbers."""

    @abstractmethod
    def _write(self, snapshot: Tensor, replica: Tensor, floats: Tensor, integers: Tensor) -> None:
        """Write the difference into the sections of a message, and add to ``replica`` what they stand for."""

    @abstractmethod
    def _add(self, floats: Tensor, integers: Tensor, replica: Tensor) -> None:
        """Add to ``replica`` what the sections of a message stand for."""

    @abstractmethod
    def payload(self, length: int) -> Payload:
        """Bytes of a message of ``length`` entries by their kind."""

    def message_bytes(self, length: int) -> int:
        """Number of bytes of the message of ``length`` entries."""
        return sum(_section_bytes(section) for section in self._sections(length))

    def message(self, length: int) -> Tensor:
        """Memory for a message of ``length`` entries."""
        return torch.zeros(self.message_bytes(length), dtype=torch.uint8)

    def write(self, snapshot: Tensor, replica: Tensor, message: Tensor) -> None:
        """Write q = Q(snapshot - replica) into ``message``, and add it to ``replica``, in place."""
        self._write(snapshot, replica, *self._views(message, len(snapshot)))

    def add(self, message: Tensor, replica: Tensor) -> None:
        """Add the q that a message stands for to ``replica``, in place."""
        self._add(*self._views(message, len(replica)), replica)

    def floats(self, message: Tensor, length: int) -> Tensor:
        """The floating numbers in a message of ``length`` entries, which are finite if and only if all that it says is."""
        return self._views(message, length)[0]

    def _views(self, message: Tensor, length: int) -> tuple[Tensor, Tensor]:
        floats, integers = self._sections(length)
        return _view(message, 0, floats), _view(message, _section_bytes(floats), integers)


class Bfloat16(Code):
    """Differences rounded to bf16."""

    consensus_step = 1.0

    def _sections(self, length: int) -> tuple[Section, Section]:
        return (torch.bfloat16, length), (torch.uint8, 0)

    def _write(self, snapshot: Tensor, replica: Tensor, floats: Tensor, integers: Tensor) -> None:
        for one, other, into in _blocks((snapshot, replica, floats), (1, 1, 1)):
            into.copy_(one.sub(other))
            other.add_(into.to(other.dtype))

    def _add(self, floats: Tensor, integers: Tensor, replica: Tensor) -> None:
        for values, part in _blocks((floats, replica), (1, 1)):
            part.add_(values.to(part.dtype))

    def payload(self, length: int) -> Payload:
        """Every byte stands for values."""
        return Payload(values=self.message_bytes(length))


class Integers(Code):
    """Differences rounded to integers of 8 or 4 bits, with a scale per chunk."""

    consensus_step = 1.0

    def __init__(self, bits: IntegerBits) -> None:
        self.bits = bits

    def _sections(self, length: int) -> tuple[Section, Section]:
        return (torch.float32, number_of_scales(length)), (torch.int8, code_bytes(length, self.bits))

    def _write(self, snapshot: Tensor, replica: Tensor, floats: Tensor, integers: Tensor) -> None:
        widths = (1, 1, 1 / CHUNK, self.bits / 8)
        scratch = torch.empty(min(BLOCK, len(snapshot)), dtype=snapshot.dtype)
        for one, other, scales, codes in _blocks((snapshot, replica, floats, integers), widths):
            difference = torch.sub(one, other, out=scratch[: len(one)])
            own_codes, own_scales, values = quantise(difference, self.bits)
            codes.copy_(own_codes)
            scales.copy_(own_scales)
            other.add_(values)

    def _add(self, floats: Tensor, integers: Tensor, replica: Tensor) -> None:
        for scales, codes, part in _blocks((floats, integers, replica), (1 / CHUNK, self.bits / 8, 1)):
            part.add_(dequantised(codes, scales, self.bits, part))

    def payload(self, length: int) -> Payload:
        """Every byte stands for values, scales included."""
        return Payload(values=self.message_bytes(length))


class LargestOfChunks(Code):
    """The largest difference of each chunk of ``rate`` entries, in bf16, and its offset within the chunk."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        # An entry is renewed every ``rate`` rounds or so, and what is known of it mixed in in each of them: together they
        # then make one whole step. From twice as much on two learners move apart.
        self.consensus_step = 1 / rate

    def _sections(self, length: int) -> tuple[Section, Section]:
        chosen = chunks(length, self.rate)
        return (torch.bfloat16, chosen), (offset_dtype(self.rate), chosen)

    def _write(self, snapshot: Tensor, replica: Tensor, floats: Tensor, integers: Tensor) -> None:
        offsets = largest_of_differences(snapshot, replica, self.rate)
        positions = positions_of(offsets, self.rate)
        known = replica[positions]
        floats.copy_(snapshot[positions].sub_(known))
        integers.copy_(offsets)
        replica[positions] = known.add_(floats)

    def _add(self, floats: Tensor, integers: Tensor, replica: Tensor) -> None:
        replica[positions_of(integers.long(), self.rate)] += floats

    def payload(self, length: int) -> Payload:
        """Values, and the offsets as indices."""
        floats, integers = self._sections(length)
        return Payload(values=_section_bytes(floats), indices=_section_bytes(integers))


def code_of(name: Compression, rate: int) -> Code | None:
    """The code that a configuration names; None if messages are not compressed. ``rate`` is that of ``topk``."""
    codes: dict[Compression, Code | None] = {
        "none": None,
        "bf16": Bfloat16(),
        "int8": Integers(8),
        "int4": Integers(4),
        "topk": LargestOfChunks(rate),
    }
    return codes[name]


def _blocks(tensors: Sequence[Tensor], widths: Sequence[float]) -> Iterator[tuple[Tensor, ...]]:
    """Pieces whose temporaries stay in a processor's cache; ``widths``: elements of each tensor per entry."""
    pieces = (tensor.split(round(BLOCK * width)) for tensor, width in zip(tensors, widths, strict=True))
    return zip(*pieces, strict=True)


def _section_bytes(section: Section) -> int:
    dtype, elements = section
    return -(-elements * dtype.itemsize // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _view(message: Tensor, start: int, section: Section) -> Tensor:
    dtype, elements = section
    return message[start : start + elements * dtype.itemsize].view(dtype)
