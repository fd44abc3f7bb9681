"""Exchanges of whole messages between neighbours, overlapped with computation.

Every receive is posted before any send: gloo announces a receive on the socket that carries the payload, where it
would queue behind a message of many megabytes and halve the throughput. One tensor per neighbour and dtype.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch.distributed import ProcessGroup, Work

from distributed.gossip.finite import refuse_non_finite
from distributed.gossip.packing import Message
from distributed.learners.world import World


class NeighbourExchange:
    """Sends a message to some members of a group while it receives those of others.

    ``learners`` gives the learner behind each member of the group, for the error that names it.
    """

    def __init__(self, *, group: ProcessGroup, learners: Sequence[int], world: World) -> None:
        self.group = group
        self.learners = learners
        self.world = world
        self._received: dict[int, Message] = {}  # by sender
        self._spare: list[Message] = []  # buffers of earlier rounds
        self._works: list[tuple[int, Work]] = []  # (learner at the other end, operation in flight)

    def start(self, message: Message, senders: Collection[int], recipients: Collection[int]) -> None:
        """Launch the messages; returns at once. ``message`` must stay as it is until ``wait``, which must follow.

        RuntimeError, here and in ``wait``, names the learner whose connection failed.
        """
        self.start_each(dict.fromkeys(recipients, message), dict.fromkeys(senders, message))

    def start_each(self, messages: Mapping[int, Message], layouts: Mapping[int, Message]) -> None:
        """The same with a message for each recipient, and for each sender a message of the layout that it sends."""
        self._spare += self._received.values()
        self._received = {sender: self._like(layout) for sender, layout in layouts.items()}
        for sender, parts in self._received.items():
            with _naming(self.learners[sender]) as learner:
                self._works += [(learner, self.group.recv([part], sender, tag)) for tag, part in enumerate(parts)]
        for recipient, message in messages.items():
            with _naming(self.learners[recipient]) as learner:
                self._works += [(learner, self.group.send([part], recipient, tag)) for tag, part in enumerate(message)]
        self.world.traffic.count(_total_bytes(messages), _total_bytes(self._received))

    def wait(self) -> dict[int, Message]:
        """The messages that came in, by sender; the caller may overwrite them.

        Raises:
            NonFiniteWeightsError: one of them is not finite; it names the learner that sent it.
        """
        arrived, self._works = self._works, []
        if arrived:
            self.world.wait_between_two(partial(_wait, arrived))
        for sender, message in self._received.items() if arrived else ():  # what was handed out may be overwritten
            refuse_non_finite(message, self.learners[sender])
        return self._received

    def _like(self, message: Message) -> Message:
        """Buffers of the same shapes as ``message``; reuses those of earlier rounds where they fit."""
        while self._spare:
            spare = self._spare.pop()
            if [(part.shape, part.dtype) for part in spare] == [(part.shape, part.dtype) for part in message]:
                return spare
        return [torch.empty(part.shape, dtype=part.dtype, pin_memory=part.is_pinned()) for part in message]


def _wait(works: Sequence[tuple[int, Work]]) -> None:
    for learner, work in works:
        with _naming(learner):
            work.wait()


def _total_bytes(messages: Mapping[int, Message]) -> int:
    return sum(part.nbytes for message in messages.values() for part in message)


@contextmanager
def _naming(learner: int) -> Iterator[int]:
    """Name the lost learner in the error; gloo's own message has only its address."""
    try:
        yield learner
    except RuntimeError as error:
        raise RuntimeError(f"the exchange of weights with learner {learner} failed: {error}") from error
