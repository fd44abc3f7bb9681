"""Exchanges of whole messages between neighbours, overlapped with computation.

Every receive is posted before any send: gloo announces a receive on the socket that carries the payload, where it
would queue behind a message of many megabytes and halve the throughput. Messages travel in pieces, so that what has come
in can be mixed while the rest is on its way.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch.distributed import ProcessGroup, Work

from distributed.gossip.finite import refuse_non_finite
from distributed.gossip.packing import Message, Piece
from distributed.learners.world import World

PIECE_BYTES = 4 << 20  # few enough that mixing the last piece takes little, enough that each fills the wire


class NeighbourExchange:
    """Sends a message to some members of a group while it receives those of others.

    ``learners`` gives the learner behind each member of the group, for the error that names it.
    """

    def __init__(self, *, group: ProcessGroup, learners: Sequence[int], world: World) -> None:
        self.group = group
        self.learners = learners
        self.world = world
        self.received: dict[int, Message] = {}  # of the round under way or the one before, by sender
        self._spare: list[Message] = []  # buffers of earlier rounds
        self._receives: dict[int, list[Work]] = {}  # in flight: by sender, a work for each piece
        self._sends: list[tuple[int, Work]] = []  # in flight: (recipient, work)

    def start(self, message: Message, senders: Collection[int], recipients: Collection[int]) -> None:
        """Launch the messages; returns at once. ``message`` must stay as it is until ``wait`` or all of ``arriving``, one of which must follow.

        RuntimeError, here and there, names the learner whose connection failed.
        """
        self.start_each(dict.fromkeys(recipients, message), dict.fromkeys(senders, message))

    def start_each(self, messages: Mapping[int, Message], layouts: Mapping[int, Message]) -> None:
        """The same with a message for each recipient, and for each sender a message of the layout that it sends."""
        self._spare += self.received.values()
        self.received = {sender: self._like(layout) for sender, layout in layouts.items()}
        for sender, message in self.received.items():
            with self._naming(sender):
                self._receives[sender] = [
                    self.group.recv([message[part][entries]], sender, tag)
                    for tag, (part, entries) in enumerate(pieces(message))
                ]
        for recipient, message in messages.items():
            with self._naming(recipient):
                self._sends += [
                    (recipient, self.group.send([message[part][entries]], recipient, tag))
                    for tag, (part, entries) in enumerate(pieces(message))
                ]
        self.world.traffic.count(_total_bytes(messages), _total_bytes(self.received))

    def wait(self) -> dict[int, Message]:
        """The messages that came in, by sender; the caller may overwrite them.

        Raises:
            NonFiniteWeightsError: one of them is not finite; it names the learner that sent it.
        """
        arrived, self._receives = self._receives, {}
        self._wait([(sender, work) for sender, works in arrived.items() for work in works])
        for sender in arrived:  # what was handed out before may be overwritten
            refuse_non_finite(self.received[sender], self.learners[sender])
        self._wait_for_sends()
        return self.received

    def arriving(self) -> Iterator[Piece]:
        """The pieces of messages of one layout, in their order, each when all senders' have come in; in place of ``wait``.

        Raises:
            NonFiniteWeightsError: a piece is not finite; it names the learner that sent it.
        """
        arrived, self._receives = self._receives, {}
        layout = next(iter(self.received.values()), [])
        for (part, entries), *works in zip(pieces(layout), *arrived.values(), strict=True):
            self._wait(list(zip(arrived, works, strict=True)))
            for sender in arrived:
                refuse_non_finite([self.received[sender][part][entries]], self.learners[sender])
            yield part, entries
        self._wait_for_sends()

    def _wait_for_sends(self) -> None:
        sent, self._sends = self._sends, []
        self._wait(sent)

    def _wait(self, works: Sequence[tuple[int, Work]]) -> None:
        """Wait for operations with members of the group."""
        if works:
            self.world.wait_between_two(partial(self._wait_here, works))

    def _wait_here(self, works: Sequence[tuple[int, Work]]) -> None:
        for member, work in works:
            with self._naming(member):
                work.wait()

    @contextmanager
    def _naming(self, member: int) -> Iterator[None]:
        """Name the lost learner in the error; gloo's own message has only its address."""
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"the exchange of weights with learner {self.learners[member]} failed: {error}"
            ) from error

    def _like(self, message: Message) -> Message:
        """Buffers of the same shapes as ``message``; reuses those of earlier rounds where they fit."""
        while self._spare:
            spare = self._spare.pop()
            if [(part.shape, part.dtype) for part in spare] == [(part.shape, part.dtype) for part in message]:
                return spare
        return [torch.empty(part.shape, dtype=part.dtype, pin_memory=part.is_pinned()) for part in message]


def pieces(message: Message) -> list[Piece]:
    """The pieces of all messages of this layout; a part without entries has none."""
    return [
        (index, slice(begin, begin + step))
        for index, part in enumerate(message)
        for step in [PIECE_BYTES // part.element_size()]
        for begin in range(0, len(part), step)
    ]


def _total_bytes(messages: Mapping[int, Message]) -> int:
    return sum(part.nbytes for message in messages.values() for part in message)
