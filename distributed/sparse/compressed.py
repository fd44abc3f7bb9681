"""What schemes that send compressed gradients share: clipping before, one pass after backward, agreement on bad steps.

    g  <-  what the learners make together of  compressed(g_i)       the same on all, so that their weights stay the same

Gradients accumulate in the flat buffer; nothing is sent before the last backward of a step. Each learner clips its own
to max_norm * sqrt(L) before it is compressed: the mean of L independent gradients is sqrt(L) times shorter than one. This
is the rule of Deep Gradient Compression (arXiv 1712.01887, section 3.2), |g_i| / L <= max_norm / sqrt(L), whose gradients
carry the 1/L already. Clipping afterwards would break what error feedback conserves. A learner whose gradient is not
finite sends NaN instead, so that all find the step bad without a further message; then no learner's state changes.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from distributed.backend import GradientReport, State
from distributed.base import SynchronousBackend
from distributed.learners.world import World
from distributed.parameters.gradients import clip_gradients
from distributed.ranges import Count
from distributed.sparse.exchange import Exchange
from distributed.sparse.second_moment import second_moment


def own_limit(max_norm: float | None, learners: int) -> float | None:
    """max_norm * sqrt(L), the norm to which a learner clips its own gradient before it is compressed."""
    return None if max_norm is None else max_norm * math.sqrt(learners)


class CompressedBackend(SynchronousBackend):
    """Sends gradients uncompressed for ``warmup_steps`` steps, then compressed by the subclass.

    With ``refresh_moments`` the first ``refresh_batches`` of every so many steps after the warm-up are uncompressed as
    well, and Adam's second moment is that of these alone (distributed/sparse/second_moment.py).
    """

    def __init__(
        self,
        *,
        warmup_steps: int,
        world: World,
        refresh_moments: Count | None = None,
        refresh_batches: Count = 1,
    ) -> None:
        super().__init__(world=world)
        self.warmup_steps = warmup_steps
        self._moments = second_moment(refresh_moments, refresh_batches)
        self.step = 0  # number of steps, the same on all learners, skipped ones included
        self.exchange = Exchange(world)
        self.uncompressed: list[Tensor] = []  # the parameters of optimizer groups with ``compress=False``
        self._dense_bytes = 0  # bytes that the steps since the last metrics would have sent uncompressed

    def attach(self, optimizer: Optimizer) -> None:
        """Reads the groups' ``compress`` flags once for the whole run: loading a checkpoint overwrites those flags."""
        super().attach(optimizer)
        if self._moments is not None:
            self._moments.check(optimizer)
        groups = optimizer.param_groups
        self.uncompressed = [p for group in groups if not group.get("compress", True) for p in group["params"]]

    @property
    def sends_dense(self) -> bool:
        """Whether the current step is one whose gradients travel uncompressed."""
        compressible = self.step - self.warmup_steps
        return compressible < 0 or (self._moments is not None and self._moments.sends_dense(compressible))

    @abstractmethod
    def _reduce(self, usable: bool) -> bool:
        """Write the agreed mean into the flat gradients; return whether the gradients of all learners were ``usable``.

        If not, no state changes, and the flat gradients hold no meaningful values.
        """

    def reduce_gradients(self, max_norm: float | None) -> GradientReport:
        """Clips this learner's own gradient before it is compressed; the reported norm is that gradient's."""
        report = self.clip_own_gradients(max_norm)
        self.traffic.rounds += 1
        self._dense_bytes += sum(p.numel() * p.element_size() for p in self.model.parameters() if p.requires_grad)
        finite = self._average_all(report.finite) if self.sends_dense else self._reduce(report.finite)
        if finite and self._moments is not None and self.sends_dense and self.step >= self.warmup_steps:
            self._moments.observe(dict(self.model.named_parameters()), self.step - self.warmup_steps)
        return report._replace(finite=finite)

    def clip_own_gradients(self, max_norm: float | None) -> GradientReport:
        """Clip this learner's gradients to max_norm * sqrt(L), as each step does; report their norm and finiteness."""
        return clip_gradients(self.optimizer.param_groups, own_limit(max_norm, self.world.size))

    def _average_all(self, usable: bool) -> bool:
        return all(self._average(each, usable, each.numel()) is not None for each in self._messages())

    def _messages(self) -> Iterator[Tensor]:
        """Yields the gradients that are sent, as one contiguous tensor per flat buffer, to be changed in place.

        With frozen parameters it is a copy of the other gradients, written back before the next one is yielded.
        """
        for gradient in self.flat.flat_grad:
            pairs = [(p, view) for p, view in self.flat.views_of(self.flat.flat_grad) if _same_kind(view, gradient)]
            trained = [view for parameter, view in pairs if parameter.requires_grad]
            if len(trained) == len(pairs):
                yield gradient
                continue
            message = torch.cat([gradient[:0], *(view.flatten() for view in trained)])
            yield message
            for view, part in zip(trained, message.split([view.numel() for view in trained]), strict=True):
                view.copy_(part.view_as(view))

    def _average(
        self, message: Tensor, usable: bool, uncompressed_elements: int, dtype: torch.dtype | None = None
    ) -> Tensor | None:
        """Mean of ``message`` over learners, in ``dtype``, or in place without one; None where it is not finite.

        It is not finite if any learner's ``message`` is not ``usable``. ``uncompressed_elements``: as in ``Exchange``.
        """
        if not usable:
            message.fill_(math.nan)
        return self._mean_of(self.exchange.all_reduce_sum(message, uncompressed_elements), dtype)

    def _mean_of(self, total: Tensor, dtype: torch.dtype | None = None) -> Tensor | None:
        """The mean, as of ``_average``, from a sum over learners or one term of it; may overwrite ``total``."""
        mean = total.to(dtype or total.dtype).div_(self.world.size)
        return mean if bool(torch.isfinite(mean).all()) else None

    @contextmanager
    def updating(self, apply: bool) -> Iterator[None]:
        self.step += 1
        if apply and self._moments is not None:
            self._moments.hold(dict(self.model.named_parameters()), self.optimizer)
        with super().updating(apply):
            yield

    def metrics(self) -> dict[str, float]:
        figures, payload = super().metrics(), self.exchange.take_payload()
        if payload.total:
            steps = figures["comm/rounds"]
            figures |= {f"comm/payload_{part}": count / steps for part, count in asdict(payload).items()}
            figures["comm/compression_ratio"] = self._dense_bytes / payload.total
        self._dense_bytes = 0
        return figures

    def state_dict(self) -> State:
        moments = {} if self._moments is None else {"moments": self._moments.state_dict()}
        return {"step": self.step, **moments}

    def load_state_dict(self, states: Sequence[Mapping[str, Any]], rank: int, world_size: int) -> None:
        self.step = states[0]["step"]
        if self._moments is not None and "moments" in states[0]:
            self._moments.load_state_dict(states[0]["moments"], dict(self.model.named_parameters()))


def _same_kind(one: Tensor, other: Tensor) -> bool:
    """Whether two parameters lie in the same flat buffer: it holds one dtype of one device."""
    return one.dtype == other.dtype and one.device == other.device
