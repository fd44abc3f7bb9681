"""Exchanges of whole models between neighbours, overlapped with computation.

Every receive is posted before any send: gloo announces a receive on the socket that carries the payload, where it
would queue behind a message of many megabytes and halve the throughput. One message per neighbour and dtype. Buffers
lie in host memory (pinned where the model is on a GPU): the link is the bottleneck, not the copy, and a neighbour that
dies cannot hang a GPU.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

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
        self._works: list[tuple[int, Work]] = []  # in flight, with the learner at the other end

    def start(self, senders: Collection[int], recipients: Collection[int]) -> None:
        """Take the snapshot and launch the messages; returns at once. ``wait`` must have followed the last one.

        RuntimeError, here and in ``wait``, names the learner whose connection failed.
        """
        self._spare += self._received.values()
        self._received = {sender: self._buffers() for sender in senders}
        for own, buffer in zip(self.snapshot, self.buffers, strict=True):
            own.copy_(buffer)
        for sender, buffers in self._received.items():
            with _naming(sender):
                self._works += [(sender, self.group.recv([b], sender, tag)) for tag, b in enumerate(buffers)]
        for recipient in recipients:
            with _naming(recipient):
                self._works += [
                    (recipient, self.group.send([b], recipient, tag)) for tag, b in enumerate(self.snapshot)
                ]
        payload_bytes = sum(buffer.nbytes for buffer in self.snapshot)
        self.traffic.count(payload_bytes * len(recipients), payload_bytes * len(self._received))

    def wait(self) -> dict[int, list[Tensor]]:
        """The snapshots that came in, by sender; the caller may overwrite them."""
        for learner, work in self._works:
            with _naming(learner):
                work.wait()
        self._works = []
        return self._received

    def _buffers(self) -> list[Tensor]:
        return self._spare.pop() if self._spare else [host_copy(buffer) for buffer in self.buffers]


@contextmanager
def _naming(learner: int) -> Iterator[None]:
    """Say in the error which learner the transport lost; gloo tells only its address."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(f"the exchange of weights with learner {learner} failed: {error}") from error
