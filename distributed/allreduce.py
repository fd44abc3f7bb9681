"""Synchronous SGD: gradients are averaged over learners by torch's DistributedDataParallel, overlapped with backward.

    g = (1/L) sum_i g_i        with every g_i the gradient at the same weights

DistributedDataParallel regroups its buckets after the first backward, which changes the order of summation and so the
last bits. A rehearsal before the first real step, fresh or resumed, brings every process to the same grouping, so that
a restart is bitwise the same. It must not end with a synchronising forward without backward: the wrapper would then
reduce in the next backward even within ``no_sync``, and the first step would be rounded differently.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from torch import Tensor, nn
from torch.distributed import GradBucket
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from distributed.backend import GradientReport
from distributed.base import SynchronousBackend
from distributed.flat_parameters import FlatParameters
from distributed.launch import World
from distributed.ranges import Positive


class AllReduce(SynchronousBackend):
    """Averages gradients over all learners in buckets of ``bucket_mb`` MiB as soon as backward has filled one."""

    def __init__(self, *, bucket_mb: Positive, world: World) -> None:
        super().__init__(world=world)
        self.bucket_mb = bucket_mb
        self._wrapper: DistributedDataParallel | None = None
        self._last_bucket_seconds: float | None = None  # clock reading when the last bucket of a backward was full

    def wrap(self, model: nn.Module) -> nn.Module:
        # DistributedDataParallel owns the gradients: they are views of its buckets.
        self._model, self._flat = model, FlatParameters(model, gradients=False)
        self._wrapper = DistributedDataParallel(
            model,
            process_group=self.world.joined,
            bucket_cap_mb=self.bucket_mb,
            gradient_as_bucket_view=True,
            find_unused_parameters=False,
            broadcast_buffers=False,
        )
        self._wrapper.register_comm_hook(None, self._average_bucket)
        return self._wrapper

    @property
    def wrapper(self) -> DistributedDataParallel:
        """The module that the loop calls."""
        if self._wrapper is None:
            raise RuntimeError("backend.wrap(model) comes first")
        return self._wrapper

    def synchronise(self, resumed: bool, rehearse: Callable[[], None] | None = None) -> None:
        super().synchronise(resumed)
        if rehearse is not None:
            rehearse()  # its backward records the order in which gradients become ready
            with self.accumulating():
                rehearse()  # its forward regroups the buckets
            self.zero_grad()
            self.traffic.take()
            self._last_bucket_seconds = None

    def accumulating(self) -> AbstractContextManager[None]:
        return self.wrapper.no_sync()

    def reduce_gradients(self, max_norm: float | None) -> GradientReport:
        # Backward has returned, and with it the last bucket's average: what it waited for was exposed.
        if self._last_bucket_seconds is not None:
            self.traffic.exposed_seconds += time.perf_counter() - self._last_bucket_seconds
            self._last_bucket_seconds = None
        self.traffic.rounds += 1
        return super().reduce_gradients(max_norm)

    def _average_bucket(self, state: None, bucket: GradBucket) -> Future[Tensor]:
        gradients = bucket.buffer().div_(self.world.size)
        self.traffic.count_all_reduce(gradients.nbytes, self.world.size)
        if bucket.is_last():
            self._last_bucket_seconds = time.perf_counter()
        return self.world.joined.allreduce([gradients]).get_future().then(_first)


def _first(future: Future[list[Tensor]]) -> Tensor:
    return future.value()[0]
