"""Training by asynchronous gossip (``backend=adpsgd``), with all learners in one process.

    w_i  <-  w_i + a (s_j - s_i)   when an exchange with j has come in     w_i  <-  w_i - lr g(v_i)

Time is that of an event queue; what waits to be folded into the weights is the real backend's own class, one per
learner (distributed/gossip/pending.py). Real learners differ in their timing alone, which no two runs share: they agree
in distribution. Optimizers' moments stay with their learner.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distributed.gossip.continuous_momentum import Flow
from distributed.gossip.finite import check_own
from distributed.gossip.mixing import pair_difference
from distributed.gossip.packing import Message
from distributed.gossip.pending import PendingMixing
from distributed.simulate.flat_model import Loss, gradients_by_loop
from distributed.simulate.learners import Copies


class GossipLearning:
    """The weights of asynchronous learners, moved by the events of a queue (distributed/simulate/events.py).

    Args:
        batch_of: the batch of a unit of the pool, by its number.
        rate: learning rate by the number of the unit; None keeps the optimizers' own.
        flow: constants of the continuous momentum (distributed/gossip/continuous_momentum.py); None goes without it.
        watch: called with the unit's number after each update.
    """

    def __init__(
        self,
        *,
        loss: Loss,
        copies: Copies,
        batch_of: Callable[[int], Any],
        rate: Callable[[int], float] | None = None,
        max_norm: float | None = None,
        flow: Flow | None = None,
        watch: Callable[[int], None] = lambda unit: None,
    ) -> None:
        self.loss = loss
        self.copies = copies
        self.batch_of = batch_of
        self.rate = rate
        self.max_norm = max_norm
        self.watch = watch
        self.losses: dict[int, float] = {}  # by unit
        self.mixing = [PendingMixing([weights_P], flow) for weights_P in copies.weights_CP]
        self._entered: dict[tuple[int, bool], tuple[Message, int]] = {}  # snapshot and token, by learner and role

    def update(self, learner: int, unit: int) -> None:
        """The gradient at the weights that the unit began with, then folding and the update."""
        point_LP = self.copies.weights_CP[learner : learner + 1]
        losses_L, gradients_LP = gradients_by_loop(self.loss, point_LP, [self.batch_of(unit)])
        self.losses[unit] = losses_L.item()
        with torch.no_grad():
            self.copies.gradients_CP[learner] = gradients_LP[0]
            if self.rate is not None:
                for group in self.copies.optimizers[learner].param_groups:
                    group["lr"] = self.rate(unit)
            with self.mixing[learner].updating():
                self.copies.update(learner, self.max_norm)
        self.watch(unit)

    def snapshot(self, learner: int, initiates: bool) -> None:
        """Keep the weights with which the learner enters an exchange; NonFiniteWeightsError if they are not finite."""
        message = self.mixing[learner].packing.message()
        taken_at = self.mixing[learner].snapshot(message)
        check_own(message, learner)
        self._entered[learner, initiates] = message, taken_at

    def mix(self, initiator: int, answerer: int, weight: float) -> None:
        """Leave each end the difference of the two snapshots, to be folded in at its next update."""
        asking, asked_at = self._entered.pop((initiator, True))
        answer, answered_at = self._entered.pop((answerer, False))
        to_initiator, to_answerer = _differences(asking, answer), _differences(answer, asking)
        self.mixing[initiator].add(to_initiator, weight, asked_at)
        self.mixing[answerer].add(to_answerer, weight, answered_at)

    def oldest(self, learner: int) -> int:
        """Age of the learner's oldest exchange in flight."""
        return self.mixing[learner].oldest

    def fold(self) -> None:
        """Fold in all that has come in, as learners do before an evaluation; nothing may be in flight."""
        for mixing in self.mixing:
            mixing.fold()

    def take_staleness(self) -> Counter[int]:
        """Number of exchanges folded in since the last call, by staleness in own updates, over all learners."""
        return sum((mixing.take_staleness() for mixing in self.mixing), Counter())


def _differences(own: Message, other: Message) -> list[Tensor]:
    return [pair_difference(mine, theirs.clone()) for mine, theirs in zip(own, other, strict=True)]
