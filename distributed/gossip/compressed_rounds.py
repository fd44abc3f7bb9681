"""Rounds of compressed gossip in lockstep: what a learner sends to whom, what it makes of what it receives, what it logs."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from distributed.gossip.codes import Code, Compression
from distributed.gossip.packing import Message
from distributed.gossip.replicas import Edge, Replicas, checked_code, consensus_difference


class CompressedRounds:
    """Replicas of neighbours and the step towards them; ``gamma`` None takes the one that suits the code."""

    def __init__(self, code: Code, gamma: float | None, rank: int, to_all: bool) -> None:
        self.replicas = Replicas(code, rank, to_all)
        self.gamma = code.consensus_step if gamma is None else gamma
        self._edges: list[tuple[int, int, float]] = []  # (sender, recipient, weight) of the round in flight
        self._difference: Message = []  # memory for the difference of a round

    def begin(
        self, snapshot: Message, row: Mapping[int, float], column: Mapping[int, float]
    ) -> tuple[dict[int, Message], dict[int, Message]]:
        """The message to each learner of ``column``, and the layout of that from each of ``row``; neither has oneself.

        ValueError where the two have not as many learners with the same weights: what one end of an edge gains would
        then not be what the other end loses.
        """
        if list(row.values()) != list(column.values()):
            raise ValueError(f"a row {dict(row)} and a column {dict(column)} of T have different weights")
        self._edges = [(sender, recipient, row[sender]) for sender, recipient in zip(row, column, strict=True)]
        sent: dict[int, Message] = {}
        for learner in column:
            sent[learner] = (
                next(iter(sent.values()))
                if sent and self.replicas.to_all
                else self.replicas.message_for(learner, snapshot)
            )
            self.replicas.count(sent[learner], snapshot)
        return sent, {learner: self.replicas.expected_from(learner, snapshot) for learner in row}

    def difference(self, received: Mapping[int, Message]) -> Message | None:
        """The difference to add to the weights, from the messages of this round by sender; None without neighbours."""
        for learner, message in received.items():
            self.replicas.receive(learner, message)
        edges: list[list[Edge]] = [self.replicas.edges(weight, j, k) for j, k, weight in self._edges]
        if not edges:
            return None
        by_part = list(zip(*edges, strict=True))
        if [part.shape for part in self._difference] != [edge.sent.shape for edge in edges[0]]:
            self._difference = [torch.empty_like(edge.sent) for edge in edges[0]]
        for of_part, into in zip(by_part, self._difference, strict=True):
            consensus_difference(of_part, self.gamma, into)
        return self._difference

    def figures(self, rounds: float) -> dict[str, float]:
        """Metrics of the payload since the last call, per round, and how many times smaller it was."""
        return payload_figures([self.replicas], rounds)

    def state_dict(self) -> dict[str, Any]:
        """What others know of this learner."""
        return self.replicas.state_dict()

    def load_state_dict(self, states: Sequence[Mapping[str, Any]], world_size: int) -> None:
        """Take the states of all learners of a scheme; where their number has changed, all streams begin anew."""
        found = saved_replicas(states, world_size)
        self.replicas.load_state_dict(found[self.replicas.rank], found)


def compressed_rounds(
    compression: Compression, rate: int, gamma: float | None, *, mix_moments: bool, rank: int, to_all: bool
) -> CompressedRounds | None:
    """The rounds of a scheme's options; None if its messages are not compressed.

    Raises:
        UsageError: moments are to be mixed too.
    """
    code = checked_code(compression, rate, mix_moments)
    return None if code is None else CompressedRounds(code, gamma, rank, to_all)


def saved_replicas(states: Sequence[Mapping[str, Any]], world_size: int) -> list[Mapping[str, Any]]:
    """The replicas in the states of a scheme, by rank; empty ones where some learner has none, or there were not as many."""
    found = [state["replicas"] for state in states if "replicas" in state]
    return found if len(found) == len(states) == world_size else [{}] * world_size


def payload_figures(replicas: Sequence[Replicas], rounds: float) -> dict[str, float]:
    """The metrics under ``comm/payload_*`` and ``comm/compression_ratio`` of several sets of streams; empty if all were silent."""
    taken = [each.take_payload() for each in replicas]
    total = sum(payload.total for payload, _ in taken)
    if not total or not rounds:
        return {}
    return {
        "comm/payload_values": sum(payload.values for payload, _ in taken) / rounds,
        "comm/payload_indices": sum(payload.indices for payload, _ in taken) / rounds,
        "comm/payload_uncompressed": sum(payload.uncompressed for payload, _ in taken) / rounds,
        "comm/compression_ratio": sum(uncompressed for _, uncompressed in taken) / total,
    }
