"""The collectives of a step's exchange: timed, and counted twice, as wire bytes and as payload.

Payload is what compression is judged by: the buffer that a collective leaves on every learner, n bytes of an
all-reduce or a broadcast and L n of an all-gather, whatever the algorithm beneath sends. It is counted in three parts:
what stands for compressed parameters, where in them it belongs, and what is sent of parameters that are not compressed.
Wire bytes are those of ``distributed/learners/traffic.py``.
"""

import time

import torch
from torch import Tensor
from torch.distributed import Work

from distributed.learners.traffic import broadcast_copies_sent
from distributed.learners.world import World
from distributed.values.payload import Payload


class Exchange:
    """Collectives over all learners of a world, which all call in the same order; an empty tensor needs none."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.payload = Payload()  # counted since the last ``take_payload``
        self._began_at: float | None = None  # clock reading of the first collective that nobody has waited for yet

    def take_payload(self) -> Payload:
        """Return the payload counted so far and reset the count."""
        taken, self.payload = self.payload, Payload()
        return taken

    def all_reduce_sum(self, tensor: Tensor, uncompressed_elements: int) -> Tensor:
        """Sum a contiguous tensor over learners, in place; bitwise the same result everywhere.

        ``uncompressed_elements``: how many of its elements are of parameters that are not compressed; the others are values.
        """
        self.wait(self.start_all_reduce_sum(tensor, uncompressed_elements))
        return tensor

    def start_all_reduce_sum(self, tensor: Tensor, uncompressed_elements: int) -> Work | None:
        """The same, to be waited for; None: there is nothing to wait for."""
        self.payload.uncompressed += uncompressed_elements * tensor.itemsize
        self.payload.values += (tensor.numel() - uncompressed_elements) * tensor.itemsize
        if self.world.size == 1 or not tensor.numel():
            return None
        self.world.traffic.count_all_reduce(tensor.nbytes, self.world.size)
        self._begin()
        return self.world.joined.allreduce([tensor])

    def broadcast_indices(self, tensor: Tensor, source: int) -> Tensor:
        """Overwrite a tensor of bytes, uint8 and contiguous, with that of learner ``source``, in place."""
        self.wait(self.start_broadcast_indices(tensor, source))
        return tensor

    def start_broadcast_indices(self, tensor: Tensor, source: int) -> Work | None:
        """The same, to be waited for; None: there is nothing to wait for."""
        self.payload.indices += tensor.nbytes
        rank, size = self.world.rank, self.world.size
        if size == 1 or not tensor.numel():
            return None
        copies_sent = broadcast_copies_sent(rank, source, size)
        self.world.traffic.count(tensor.nbytes * copies_sent, tensor.nbytes * (rank != source))
        self._begin()
        return self.world.joined.broadcast(tensor, source)

    def wait(self, work: Work | None) -> None:
        """Wait until a started collective has ended; the time is counted as exposed communication."""
        if work is not None:
            with self.world.traffic.waiting():
                self.world.wait(work, self.world.device)
            self._end()

    def _begin(self) -> None:
        if self._began_at is None:
            self._began_at = time.perf_counter()

    def _end(self) -> None:
        if self._began_at is not None:
            self.world.traffic.exchanged_since(self._began_at)
            self._began_at = None

    def all_gather_values(self, tensor: Tensor) -> Tensor:
        """The tensors of all learners, of one contiguous shape (n,), as rows of (L, n) by rank."""
        self.payload.values += tensor.nbytes * self.world.size
        return self._all_gather(tensor)

    def all_gather_indices(self, tensor: Tensor) -> Tensor:
        """As ``all_gather_values``, for tensors of bytes that hold indices."""
        self.payload.indices += tensor.nbytes * self.world.size
        return self._all_gather(tensor)

    def _all_gather(self, tensor: Tensor) -> Tensor:
        size = self.world.size
        if size == 1 or not tensor.numel():
            return tensor.expand(size, *tensor.shape)
        gathered = torch.empty(size * tensor.numel(), dtype=tensor.dtype, device=tensor.device)
        self._begin()
        with self.world.traffic.waiting():
            self.world.wait(self.world.joined._allgather_base(gathered, tensor), tensor.device)
        self._end()
        wire_bytes = (size - 1) * tensor.nbytes
        self.world.traffic.count(wire_bytes, wire_bytes)
        return gathered.view(size, -1)
