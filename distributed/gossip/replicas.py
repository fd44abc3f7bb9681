"""Compressed gossip: learners mix what others know of them, and send others how that differs from what they are.

    q_i  =  Q(s_i - m_i)                              sent to the neighbours
    m_i  <-  m_i + q_i                                by learner i and by all that receive it: their replicas of i agree
    w_i  <-  w_i + gamma sum_j T_ij (m_j - m_i)       s: the weights at the beginning of the step

This is CHOCO-SGD: Koloskova et al. 2019, arXiv 1902.00340, Algorithm 2, and arXiv 1907.09356, Algorithm 1. The memory of
the error is s_i - m_i itself, what is not yet sent: it is in the next difference. Since what one end of an edge gains
the other one loses, the mean over learners is conserved whatever Q does.

Why replicas, and not the error feedback of DeepSqueeze (Tang et al. 2019, arXiv 1907.07346), which needs no memory of
neighbours: it compresses the weights themselves, so that its error is a share of the weights. Q here rounds what
has changed since the last message, hence its error vanishes as learners come to rest.

A *stream* is what a learner sends to a fixed set of others: to all its neighbours where these are the same in every
round, to each one on its own where they change, as then not all of them receive every message. Its first message is the
snapshot itself. What begins anew, with other learners or another layout, so needs no message to agree on replicas.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distributed.errors import UsageError
from distributed.gossip.codes import BLOCK, Code, Compression, code_of
from distributed.gossip.finite import refuse_non_finite
from distributed.gossip.packing import Message
from distributed.values.payload import Payload

TO_ALL = "all"  # name of the stream that all neighbours hear


class Edge(NamedTuple):
    """What one neighbour contributes to a round: T_ij, m_j, and m_i as the neighbour in its place knows it."""

    weight: float
    received: Tensor
    sent: Tensor


def consensus_difference(edges: Sequence[Edge], gamma: float, into: Tensor) -> None:
    """Write gamma sum_j T_ij (m_j - m_i), of shape (elements,), into ``into``, from at least one edge.

    Both ends of an edge compute bitwise opposite terms, and learners whose replicas agree keep their weights bitwise.
    """
    first, *others = edges
    for start in range(0, len(into), BLOCK):
        piece = slice(start, start + BLOCK)
        torch.sub(first.received[piece], first.sent[piece], out=into[piece]).mul_(gamma * first.weight)
        for edge in others:
            into[piece].add_(torch.sub(edge.received[piece], edge.sent[piece]), alpha=gamma * edge.weight)


class Replicas:
    """What other learners know of this one, ``sent`` by stream, and this one of others, ``received`` by sender."""

    def __init__(self, code: Code, rank: int, to_all: bool) -> None:
        self.code = code
        self.rank = rank
        self.to_all = to_all
        self.sent: dict[str, Message] = {}
        self.received: dict[int, Message] = {}
        self.payload = Payload()  # of messages sent, since it was last taken
        self.uncompressed_bytes = 0  # that these messages would have had
        self._messages: dict[str, Message] = {}  # memory for the next one of each stream
        self._lock = threading.Lock()  # of the two counters, which another thread reads

    def message_for(self, learner: int, snapshot: Message) -> Message:
        """What ``learner`` is sent of a snapshot, which this learner's own replica then holds too.

        A first message is ``snapshot`` itself, to be left as it is until it is sent; a later one is overwritten by the next
        of its stream.
        """
        name = self._stream(learner)
        if name not in self.sent:
            self.sent[name] = [part.clone() for part in snapshot]
            return snapshot
        if name not in self._messages:
            self._messages[name] = [self.code.message(len(part)) for part in snapshot]
        message = self._messages[name]
        for part, replica, into in zip(snapshot, self.sent[name], message, strict=True):
            self.code.write(part, replica, into)
        return message

    def expected_from(self, learner: int, snapshot: Message) -> Message:
        """The shapes and dtypes of the next message of ``learner``, whose snapshots have those of ``snapshot``."""
        if learner not in self.received:
            return snapshot
        return [torch.empty(self.code.message_bytes(len(part)), dtype=torch.uint8, device="meta") for part in snapshot]

    def receive(self, learner: int, message: Message) -> None:
        """Take in a message of ``learner``; NonFiniteWeightsError if it is not finite."""
        if learner not in self.received:
            self.received[learner] = [part.clone() for part in message]
            return
        replicas = self.received[learner]
        floats = [self.code.floats(part, len(known)) for part, known in zip(message, replicas, strict=True)]
        refuse_non_finite(floats, learner)
        for part, known in zip(message, replicas, strict=True):
            self.code.add(part, known)

    def edges(self, weight: float, sender: int, recipient: int) -> list[Edge]:
        """An edge for each tensor of a message."""
        sent = self.sent[self._stream(recipient)]
        return [Edge(weight, other, own) for other, own in zip(self.received[sender], sent, strict=True)]

    def count(self, message: Message, snapshot: Message) -> None:
        """Count the payload of a message of ``message_for`` that is sent to one learner."""
        with self._lock:
            self.uncompressed_bytes += sum(part.nbytes for part in snapshot)
            if message is snapshot:
                self.payload.uncompressed += sum(part.nbytes for part in snapshot)
                return
            for part in snapshot:
                payload = self.code.payload(len(part))
                self.payload.values += payload.values
                self.payload.indices += payload.indices

    def take_payload(self) -> tuple[Payload, int]:
        """The payload sent since the last call, and the bytes that it would have been uncompressed."""
        with self._lock:
            taken = self.payload, self.uncompressed_bytes
            self.payload, self.uncompressed_bytes = Payload(), 0
        return taken

    def state_dict(self) -> dict[str, Any]:
        """What others know of this learner; what it knows of them is in their states."""
        return {name: list(replica) for name, replica in self.sent.items()}

    def load_state_dict(self, own: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> None:
        """Take this learner's state and those of all learners by rank; what is in none of them begins anew."""
        self.sent = {name: _copied(replica) for name, replica in own.items()}
        self.received = {}
        for learner, state in enumerate(others):
            found = state.get(str(self.rank), state.get(TO_ALL))
            if learner != self.rank and found is not None:
                self.received[learner] = _copied(found)

    def _stream(self, learner: int) -> str:
        return TO_ALL if self.to_all else str(learner)


def checked_code(compression: Compression, rate: int, mix_moments: bool) -> Code | None:
    """The code of a scheme's options.

    Raises:
        UsageError: moments are to be mixed too. What is near 0 in a chunk would be rounded to it, and Adam divides by the
            root of its second moments.
    """
    if compression != "none" and mix_moments:
        raise UsageError(
            f"backend.compression={compression} is for weights alone, as rounded second moments would make steps of any "
            "length; set backend.mix_moments=false or backend.compression=none"
        )
    return code_of(compression, rate)


def _copied(replica: Sequence[Tensor]) -> Message:
    return [part.clone() for part in replica]
