"""Exchanges of whole models between neighbours, overlapped with computation.

Every receive is posted before any send: gloo announces a receive on the socket that carries the payload, where it
would queue behind a message of many megabytes and halve the throughput. One message per neighbour and dtype. Buffers
lie in host memory (pinned where the model is on a GPU): the link is the bottleneck, not the copy, and a neighbour that
dies cannot hang a GPU.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.distributed import ProcessGroup, Work

from distributed.traffic import Traffic


def host_copy(tensor: Tensor) -> Tensor:
    """An uninitialised buffer of the same shape and dtype in host memory."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)


class NeighbourExchange:
    """Sends a snapshot of flat buffers to some learners while it receives the snapshots of others."""

    def __init__(self, *, group: ProcessGroup, buffers: Sequence[Tensor], traffic: Traffic) -> None:
        self.group = group
        self.buffers = buffers
        self.traffic = traffic
        self.snapshot = [host_copy(buffer) for buffer in buffers]
        self._received: dict[int, list[Tensor]] = {}  # by sender
        self._spare: list[list[Tensor]] = []  # buffers of earlier rounds
        self._receives: list[tuple[int, Work]] = []
        self._sends: list[tuple[int, Work]] = []

    def start(self, senders: Collection[int], recipients: Collection[int]) -> None:
        """Take the snapshot and launch the messages; returns at once. ``wait`` must have followed the last one."""
        self._spare += self._received.values()
        self._received = {sender: self._buffers() for sender in senders}
        for own, buffer in zip(self.snapshot, self.buffers, strict=True):
            own.copy_(buffer)
        for sender, buffers in self._received.items():
            for tag, buffer in enumerate(buffers):
                self._receives.append((sender, self.group.recv([buffer], sender, tag)))
        for recipient in recipients:
            for tag, buffer in enumerate(self.snapshot):
                self._sends.append((recipient, self.group.send([buffer], recipient, tag)))
        payload_bytes = sum(buffer.nbytes for buffer in self.snapshot)
        self.traffic.count(payload_bytes * len(recipients), payload_bytes * len(self._received))

    def wait(self) -> dict[int, list[Tensor]]:
        """The snapshots that came in, by sender; theirs to overwrite. RuntimeError names the learner that failed."""
        for learner, work in self._receives + self._sends:
            try:
                work.wait()
            except RuntimeError as error:
                raise RuntimeError(f"the exchange of weights with learner {learner} failed: {error}") from error
        self._receives, self._sends = [], []
        return self._received

    def _buffers(self) -> list[Tensor]:
        return self._spare.pop() if self._spare else [host_copy(buffer) for buffer in self.buffers]
