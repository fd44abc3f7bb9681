"""Synchronous SGD: gradients are averaged over all learners, overlapped with backward.

g = (1/L) sum_i g_i        with every g_i the gradient at the same weights
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar

from torch import nn

from distributed.backend import GradientReport
from distributed.base import SynchronousBackend
from distributed.learners.world import World
from distributed.parameters.flat_parameters import FlatParameters
from distributed.parameters.gradient_average import GradientAverage
from distributed.ranges import Positive


class AllReduce(SynchronousBackend):
    """Averages gradients over all learners in buckets of ``bucket_mb`` MiB as soon as backward has filled one."""

    whole_last_backward: ClassVar[bool] = True

    def __init__(self, *, bucket_mb: Positive, world: World) -> None:
        super().__init__(world=world)
        self._average = GradientAverage(bucket_mb=bucket_mb, traffic=self.traffic)

    def wrap(self, model: nn.Module) -> nn.Module:
        self._model, self._flat = model, FlatParameters(model, gradients=False)
        return self._average.wrap(model, self.world.joined)

    def synchronise(self, resumed: bool, rehearse: Callable[[], None] | None = None) -> None:
        super().synchronise(resumed)
        if rehearse is not None:
            self._average.rehearse(rehearse)
            self.zero_grad()

    def accumulating(self) -> AbstractContextManager[None]:
        return self._average.accumulating()

    def reduce_gradients(self, max_norm: float | None) -> GradientReport:
        self._average.finish()
        self.traffic.rounds += 1
        return super().reduce_gradients(max_norm)
