"""Gradients averaged over the learners of a group by torch's DistributedDataParallel, overlapped with backward.

    g = (1/n) sum_i g_i        over the n learners of the group

DistributedDataParallel regroups its buckets after the first backward, which changes the order of summation and so the
last bits. A rehearsal before the first real step, fresh or resumed, brings every process to the same grouping, so that
a restart is bitwise the same. It must not end with a synchronising forward without backward: the wrapper would then
reduce in the next backward even within ``no_sync``, and the first step would be rounded differently.
"""

import time
import warnings
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager

from torch import Tensor, nn
from torch.distributed import GradBucket, ProcessGroup
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from distributed.learners.traffic import Traffic


class GradientAverage:
    """Averages in buckets of ``bucket_mb`` MiB as soon as backward has filled one; owns the gradients it averages."""

    def __init__(self, *, bucket_mb: float, traffic: Traffic) -> None:
        self.bucket_mb = bucket_mb
        self.traffic = traffic
        self._wrapper: DistributedDataParallel | None = None
        self._group: ProcessGroup | None = None
        self._first_bucket_seconds: float | None = None  # clock readings when the first bucket of a backward was full,
        self._last_bucket_seconds: float | None = None  # and the last one

    def wrap(self, model: nn.Module, group: ProcessGroup) -> nn.Module:
        """Return the module to call from now on: its backward averages over ``group``. Gradients view its buckets."""
        self._group = group
        with warnings.catch_warnings():  # its successor, forward_sync_buffers, is not in the oldest torch allowed
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self._wrapper = DistributedDataParallel(
                model,
                process_group=group,
                bucket_cap_mb=self.bucket_mb,
                gradient_as_bucket_view=True,
                find_unused_parameters=False,
                broadcast_buffers=False,
                init_sync=False,  # weights are made equal, or checked, by the backend
            )
        # Weakly: the wrapper's C++ part would otherwise keep this object, which keeps the wrapper, and with it the group's
        # threads for ever, as Python's collector does not see such a ring.
        self._wrapper.register_comm_hook(weakref.ref(self), _average_bucket)
        return self._wrapper

    @property
    def wrapper(self) -> DistributedDataParallel:
        """The module that the loop calls."""
        if self._wrapper is None:
            raise RuntimeError("backend.wrap(model) comes first")
        return self._wrapper

    def rehearse(self, rehearsal: Callable[[], None]) -> None:
        """Bring the buckets to their final grouping; the caller drops the gradients that this leaves."""
        with self.traffic.control():
            rehearsal()  # its backward records the order in which gradients become ready
            with self.accumulating():
                rehearsal()  # its forward regroups the buckets
        self._first_bucket_seconds = self._last_bucket_seconds = None

    def accumulating(self) -> AbstractContextManager[None]:
        """Wraps a forward and backward whose gradients are not communicated."""
        return self.wrapper.no_sync()

    def finish(self) -> None:
        """Call after the last backward of a step: counts the wait for the last bucket's average as exposed time."""
        if self._first_bucket_seconds is not None:
            self.traffic.exchanged_since(self._first_bucket_seconds)
        if self._last_bucket_seconds is not None:
            self.traffic.waited_since(self._last_bucket_seconds)
        self._first_bucket_seconds = self._last_bucket_seconds = None

    def average_bucket(self, bucket: GradBucket) -> Future[Tensor]:
        """Start to average a bucket that backward has filled."""
        assert self._group is not None
        learners = self._group.size()
        gradients = bucket.buffer().div_(learners)
        self.traffic.count_all_reduce(gradients.nbytes, learners)
        if self._first_bucket_seconds is None:
            self._first_bucket_seconds = time.perf_counter()
        if bucket.is_last():
            self._last_bucket_seconds = time.perf_counter()
        return self._group.allreduce([gradients]).get_future().then(_first)


def _average_bucket(average: "weakref.ref[GradientAverage]", bucket: GradBucket) -> Future[Tensor]:
    owner = average()
    assert owner is not None, "a backend that is gone trains no more"
    return owner.average_bucket(bucket)


def _first(future: Future[list[Tensor]]) -> Tensor:
    return future.value()[0]
