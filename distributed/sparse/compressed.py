"""What schemes that send compressed gradients share: clipping before, one pass after backward, agreement on bad steps.

    g  <-  what the learners make together of  compressed(g_i)       the same on all, so that their weights stay the same

Gradients accumulate in the flat buffer; nothing is sent before the last backward of a step. Each learner clips its own
to max_norm * sqrt(L) before it is compressed: the mean of L independent gradients is sqrt(L) times shorter than one. This
is the rule of Deep Gradient Compression (arXiv 1712.01887, section 3.2), |g_i| / L <= max_norm / sqrt(L), whose gradients
carry the 1/L already. Clipping afterwards would break what error feedback conserves. A learner whose gradient is not
finite sends NaN instead, so that all find the step bad without a further message; then nobody's state changes.
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
from distributed.learners.launch import World
from distributed.parameters.gradients import clip_gradients
from distributed.sparse.exchange import Exchange


class CompressedBackend(SynchronousBackend):
    """Gradients travel uncompressed for ``warmup_steps`` steps, then as the subclass says."""

    def __init__(self, *, warmup_steps: int, world: World) -> None:
        super().__init__(world=world)
        self.warmup_steps = warmup_steps
        self.step = 0  # of all learners, skipped ones included
        self.exchange = Exchange(world)
        self.uncompressed: list[Tensor] = []  # the parameters of optimizer groups with ``compress=False``
        self._dense_bytes = 0  # that the steps since the last figures would have sent uncompressed

    def attach(self, optimizer: Optimizer) -> None:
        """What groups say now counts for the whole run: loading a checkpoint puts its flags over theirs."""
        super().attach(optimizer)
        groups = optimizer.param_groups
        self.uncompressed = [p for group in groups if not group.get("compress", True) for p in group["params"]]

    @abstractmethod
    def _reduce(self, usable: bool) -> bool:
        """Put into the flat gradients what the learners agree on; whether everybody's were ``usable``.

        If not, no state changes, and the gradients are of no use.
        """

    def reduce_gradients(self, max_norm: float | None) -> GradientReport:
        """Norm and clipping are of this learner's own gradient, as it goes into the compression."""
        report = self.clip_own_gradients(max_norm)
        self.traffic.rounds += 1
        self._dense_bytes += sum(p.numel() * p.element_size() for p in self.model.parameters() if p.requires_grad)
        warming_up = self.step < self.warmup_steps
        finite = self._average_all(report.finite) if warming_up else self._reduce(report.finite)
        return report._replace(finite=finite)

    def clip_own_gradients(self, max_norm: float | None) -> GradientReport:
        """Clip this learner's gradients to max_norm * sqrt(L), as each step does; its own norm, and whether it is finite."""
        limit = None if max_norm is None else max_norm * math.sqrt(self.world.size)
        return clip_gradients(self.optimizer.param_groups, limit)

    def _average_all(self, usable: bool) -> bool:
        return all(self._average(each, usable, each.numel()) is not None for each in self._messages())

    def _messages(self) -> Iterator[Tensor]:
        """All gradients that are sent, as one contiguous tensor per flat buffer, to be changed in place.

        Where some are frozen it is a copy of the others, whose changes reach the buffer before the next one is taken.
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
        """Mean over learners, in ``dtype``, or else in place; None where it is not finite.

        It is not if anybody's ``message`` is not ``usable``. ``uncompressed_elements``: as in ``Exchange``.
        """
        if not usable:
            message.fill_(math.nan)
        return self._mean_of(self.exchange.all_reduce_sum(message, uncompressed_elements), dtype)

    def _mean_of(self, total: Tensor, dtype: torch.dtype | None = None) -> Tensor | None:
        """What ``_average`` makes of a sum over learners, or of each of its terms; may overwrite it."""
        mean = total.to(dtype or total.dtype).div_(self.world.size)
        return mean if bool(torch.isfinite(mean).all()) else None

    @contextmanager
    def updating(self, apply: bool) -> Iterator[None]:
        self.step += 1
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
        return {"step": self.step}

    def load_state_dict(self, states: Sequence[Mapping[str, Any]], rank: int, world_size: int) -> None:
        self.step = states[0]["step"]


def _same_kind(one: Tensor, other: Tensor) -> bool:
    """Whether they lie in the same flat buffer."""
    return one.dtype == other.dtype and one.device == other.device
