"""Gradients of the training loss at the model's current weights, for hooks that measure them; they leave no trace.

    g  =  gradient of  sum of the losses of all learners' units / sum of their weights  (+ per-step terms)

That is what a step's gradient is before clipping: with the hooks' terms, the augmentation and the dropout that training
gives these units, in training mode. Nothing is changed by it: neither gradients, buffers and hook states nor generators.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from asr.data.batch import Batch, Unit
from asr.data.pipeline import UnitBatches
from asr.models.speech_model import SpeechModel
from asr.training.objective import Objective
from asr.training.state import gradients_dropped, untouched
from distributed.learners.world import World


class LossGradients:
    """Loads units and computes the gradients of their loss, on all learners together."""

    def __init__(self, *, model: SpeechModel, objective: Objective, dataset: UnitBatches, world: World) -> None:
        self.model = model
        self.objective = objective
        self.dataset = dataset
        self.world = world

    def load(self, units: Sequence[Unit]) -> list[Batch]:
        """The batches of some units, loaded as for training."""
        return [self.dataset[unit] for unit in units]

    def mean(self, batches: Sequence[Batch]) -> Tensor:
        """The gradient of the mean loss over all learners' ``batches``, at least one each; bitwise the same everywhere.

        Collective. Every learner's part is taken at the weights that its model holds. Shape (trainable elements,), in
        the order of the model's parameters, on the host: what compares several needs no device memory.
        """
        return self.world.all_reduce_sum(self.own(batches)).div_(self.world.size).cpu()

    def own(self, batches: Sequence[Batch], clip: Callable[[], object] | None = None) -> Tensor:
        """This learner's part of that gradient: ``mean`` is the mean of all learners'.

        Collective, as the divisor is the learners' mean weight; on the model's device. ``clip`` is called while the
        parameters have it as their gradients, and may change them.
        """
        weight = torch.tensor([sum(batch.weight for batch in batches)], dtype=torch.float64)
        divisor = self.world.all_reduce_sum(weight).item() / self.world.size
        return self._own(batches, divisor or 1.0, clip)  # where the total weight is 0 the loss is 0 as well

    def _own(self, batches: Sequence[Batch], divisor: float, clip: Callable[[], object] | None) -> Tensor:
        """This learner's part: gradients accumulate in ``.grad`` as in a step, are not sent, and are then dropped."""
        objective, model = self.objective, self.model
        with (
            untouched(model, objective.hooks, self.world.device),
            gradients_dropped(model),
            objective.backend.accumulating(),
        ):
            for batch in batches:
                objective.backward(batch, divisor, last=batch is batches[-1])
            if clip is not None:
                clip()
            return torch.cat([_flat_gradient(each) for each in model.parameters() if each.requires_grad])


def _flat_gradient(parameter: Tensor) -> Tensor:
    return (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).detach().reshape(-1)
