"""Training by a scheme in lockstep, with all learners in one process.

A step is that of distributed/backend.py: snapshots before the gradient, gradients at the learners' own points, agreement
and clipping, mixing, update. Given the same batches the weights are those of real learners, to rounding.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distributed.gossip.finite import check_own
from distributed.parameters.gradients import clip_gradients
from distributed.simulate.flat_model import Gradients, Loss, Pieces, gradients_by_loop, whole
from distributed.simulate.learners import Copies, MakeOptimizer
from distributed.simulate.schemes import LockstepScheme
from distributed.sparse.compressed import own_limit


class Step(NamedTuple):
    """What a step has shown."""

    losses_L: Tensor  # of each learner's own batch, at its own point
    gradients_LP: Tensor  # before agreement and clipping
    finite: list[bool]  # of each copy: whether it was updated


class Lockstep:
    """Learners of one scheme; ``copies`` holds their weights and optimizers between steps.

    Args:
        max_norm: gradients are clipped to it as the scheme's backend does; None clips nothing.
        gradients: how the gradients of all learners are computed.
    """

    def __init__(
        self,
        *,
        scheme: LockstepScheme,
        learners: int,
        loss: Loss,
        start_P: Tensor,
        make_optimizer: MakeOptimizer,
        pieces: Pieces = whole,
        max_norm: float | None = None,
        gradients: Gradients = gradients_by_loop,
    ) -> None:
        self.scheme = scheme
        self.learners = learners
        self.loss = loss
        self.max_norm = max_norm
        self.steps = 0
        self.copies = Copies(start_P, scheme.copies(learners), make_optimizer, pieces)
        self._gradients = gradients

    def step(self, batches: Sequence[Any]) -> Step:
        """One step, with the batch of each learner.

        Raises:
            NonFiniteWeightsError: weights that are about to be mixed are not finite.
        """
        copies, scheme = self.copies, self.scheme
        with torch.no_grad():
            difference_CP = self._mixing()
        points_LP = scheme.points(copies.weights_CP, self.learners, self.steps)
        losses_L, gradients_LP = self._gradients(self.loss, points_LP, batches)
        finite = [False] * len(copies.optimizers)
        with torch.no_grad():
            usable = self._clip_own(own_LP := gradients_LP.clone()) if scheme.clips_own else True
            if usable:
                own_LP = own_LP if scheme.clips_own else gradients_LP
                copies.gradients_CP.copy_(scheme.agreed(own_LP, self.steps))
            if difference_CP is not None:
                copies.weights_CP.add_(difference_CP)
            if usable:
                limit = None if scheme.clips_own else self.max_norm
                finite = [copies.update(copy, limit).finite for copy in range(len(finite))]
        self.steps += 1
        return Step(losses_L, gradients_LP, finite)

    def _mixing(self) -> Tensor | None:
        if len(self.copies.weights_CP) == 1:
            return None
        for copy, weights_P in enumerate(self.copies.weights_CP):
            check_own([weights_P], copy)
        return self.scheme.differences(self.copies.weights_CP, self.steps)

    def _clip_own(self, gradients_LP: Tensor) -> bool:
        """Clip each learner's own gradient; False if one of them is not finite."""
        limit, reports = own_limit(self.max_norm, self.learners), []
        for gradient_P in gradients_LP:
            holder = nn.Parameter(torch.empty_like(gradient_P))
            holder.grad = gradient_P
            reports.append(clip_gradients([{"params": [holder]}], limit))
        return all(report.finite for report in reports)
