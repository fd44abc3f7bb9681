"""The collectives of a step's exchange: timed, and counted twice, as wire bytes and as payload.

Payload is what compression is judged by: the buffer that a collective leaves on every learner, n bytes of an
all-reduce or a broadcast and L n of an all-gather, whatever the algorithm beneath sends. Wire bytes are those of
``distributed/traffic.py``.
"""

import torch
from torch import Tensor
from torch.distributed import Work

from distributed.launch import World
from distributed.traffic import broadcast_copies_sent


class Exchange:
    """Collectives over all learners of a world, which all call in the same order; an empty tensor needs none."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.payload_bytes = 0  # since whoever reads it set it to zero

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum a contiguous tensor over learners, in place; bitwise the same result everywhere."""
        self.wait(self.start_all_reduce_sum(tensor))
        return tensor

    def start_all_reduce_sum(self, tensor: Tensor) -> Work | None:
        """The same, to be waited for; None: there is nothing to wait for."""
        self.payload_bytes += tensor.nbytes
        if self.world.size == 1 or not tensor.numel():
            return None
        self.world.traffic.count_all_reduce(tensor.nbytes, self.world.size)
        return self.world.joined.allreduce([tensor])

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """Overwrite a tensor of bytes, uint8 and contiguous, with that of learner ``source``, in place."""
        self.wait(self.start_broadcast(tensor, source))
        return tensor

    def start_broadcast(self, tensor: Tensor, source: int) -> Work | None:
        """The same, to be waited for; None: there is nothing to wait for."""
        self.payload_bytes += tensor.nbytes
        rank, size = self.world.rank, self.world.size
        if size == 1 or not tensor.numel():
            return None
        copies_sent = broadcast_copies_sent(rank, source, size)
        self.world.traffic.count(tensor.nbytes * copies_sent, tensor.nbytes * (rank != source))
        return self.world.joined.broadcast(tensor, source)

    def wait(self, work: Work | None) -> None:
        """Until something started has arrived; that is what computation waits for."""
        if work is not None:
            with self.world.traffic.waiting():
                work.wait()

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all learners, of one contiguous shape (n,), as rows of (L, n) by rank."""
        size = self.world.size
        self.payload_bytes += tensor.nbytes * size
        if size == 1 or not tensor.numel():
            return tensor.expand(size, *tensor.shape)
        gathered = torch.empty(size * tensor.numel(), dtype=tensor.dtype, device=tensor.device)
        with self.world.traffic.waiting():
            self.world.joined._allgather_base(gathered, tensor).wait()
        wire_bytes = (size - 1) * tensor.nbytes
        self.world.traffic.count(wire_bytes, wire_bytes)
        return gathered.view(size, -1)
