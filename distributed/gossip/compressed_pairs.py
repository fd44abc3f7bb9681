"""Compressed exchanges between two learners: both ends of every exchange keep replicas of each other.

    both:  s = snapshot(w)    m += Q(s - m) is sent, and m' += Q(s' - m') received    w  +=  gamma a (m' - m)

As in distributed/gossip/replicas.py, with a stream for each pair of learners and for each of the two threads that
serve it: an exchange that one end initiates and one that the other end initiates may be under way at once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from distributed.gossip.codes import Code
from distributed.gossip.compressed_rounds import payload_figures, saved_replicas
from distributed.gossip.packing import Message
from distributed.gossip.pairwise import Buffers
from distributed.gossip.replicas import Replicas


class CompressedBuffers(Buffers):
    """Memory for one exchange at a time, beside the replicas of all peers of one thread."""

    def __init__(self, code: Code, gamma: float | None, rank: int) -> None:
        super().__init__()
        self.replicas = Replicas(code, rank, to_all=False)
        self._incoming: Message = []
        self.gamma = code.consensus_step if gamma is None else gamma

    def incoming(self, peer: int) -> Message:
        """Memory for the message, the first of which is as long as a snapshot."""
        expected = self.replicas.expected_from(peer, self.own)
        if [(part.shape, part.dtype) for part in self._incoming] != [(part.shape, part.dtype) for part in expected]:
            self._incoming = [torch.empty(part.shape, dtype=part.dtype) for part in expected]
        return self._incoming

    def outgoing(self, peer: int) -> Message:
        """Writes the message into the replica of this learner too."""
        message = self.replicas.message_for(peer, self.own)
        self.replicas.count(message, self.own)
        return message

    @torch.no_grad()
    def difference(self, peer: int, received: Message) -> Message:
        """m' - m."""
        self.replicas.receive(peer, received)
        for edge, into in zip(self.replicas.edges(1.0, peer, peer), self.other, strict=True):
            torch.sub(edge.received, edge.sent, out=into)
        return self.other


class ThreadBuffers:
    """The buffers of a learner's two threads: ``initiates`` asks for exchanges, ``answers`` serves them."""

    def __init__(self, code: Code | None, gamma: float | None, rank: int) -> None:
        self.initiates = Buffers() if code is None else CompressedBuffers(code, gamma, rank)
        self.answers = Buffers() if code is None else CompressedBuffers(code, gamma, rank)

    def _replicas(self) -> dict[str, Replicas]:
        """Those of either thread, by its name; empty where messages are not compressed."""
        return {name: each.replicas for name, each in vars(self).items() if isinstance(each, CompressedBuffers)}

    def figures(self, rounds: float) -> dict[str, float]:
        """Metrics of the payload since the last call, per round that this learner initiated."""
        return payload_figures(list(self._replicas().values()), rounds)

    def state_dict(self) -> dict[str, Any]:
        """What others know of this learner, by thread; nothing may be in flight. Empty without compression."""
        replicas = self._replicas()
        return {"replicas": {name: each.state_dict() for name, each in replicas.items()}} if replicas else {}

    def load_state_dict(self, states: Sequence[Mapping[str, Any]], rank: int, world_size: int) -> None:
        """Take the states of all learners; where their number has changed, all streams begin anew.

        What a thread has received is what the other thread of its peers has sent.
        """
        found = saved_replicas(states, world_size)
        opposite = {"initiates": "answers", "answers": "initiates"}
        for name, replicas in self._replicas().items():
            replicas.load_state_dict(found[rank].get(name, {}), [each.get(opposite[name], {}) for each in found])
