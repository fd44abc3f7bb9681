"""Synchronous SGD at weights with Gaussian noise: the control experiment for decentralised SGD.

    w  <-  w - lr (1/L) sum_i g(w + n_i),        n_i ~ N(0, sigma^2) independent between learners and steps

Like decentralised SGD it takes the learners' gradients at different weights, but their distances do not adapt to the
loss landscape. Source: SSGD* in arXiv 2112.01433, section 2.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from distributed.backend import State
from distributed.keyed import keyed_seed
from distributed.learners.world import World
from distributed.ranges import NonNegative, Positive
from distributed.schemes.allreduce import AllReduce


def draw_noise(noise: Tensor, sigma: float, seed: int, step: int, rank: int) -> None:
    """Overwrite a flat buffer, shape (elements,), with the noise n_i of one learner and step."""
    generator = torch.Generator(noise.device).manual_seed(keyed_seed(seed, "weight noise", step, rank))
    noise.normal_(0.0, sigma, generator=generator)


class NoisyAllReduce(AllReduce):
    """All-reduce; between ``begin_step`` and ``updating`` the trainable weights carry this learner's noise.

    The noise depends on (seed, step, rank) alone. The weights come back bitwise before the optimizer steps.
    """

    def __init__(self, *, sigma: NonNegative, seed: int, bucket_mb: Positive, world: World) -> None:
        super().__init__(bucket_mb=bucket_mb, world=world)
        self.sigma = sigma
        self.seed = seed
        self.step = 0
        self._clean: list[Tensor] = []  # copies of the flat buffers
        self._noise: list[Tensor] = []

    def begin_step(self, local_weight: float, planned_weight: float) -> float:
        divisor = super().begin_step(local_weight, planned_weight)
        self._add_noise()
        return divisor

    @torch.no_grad()
    def _add_noise(self) -> None:
        if not self._clean:
            self._clean = [torch.empty_like(weights) for weights in self.flat.flat]
            self._noise = [torch.empty_like(weights) for weights in self.flat.flat]
        for clean, weights, noise in zip(self._clean, self.flat.flat, self._noise, strict=True):
            clean.copy_(weights)
            draw_noise(noise, self.sigma, self.seed, self.step, self.world.rank)
        for parameter, view in self.flat.views_of(self._noise):
            if not parameter.requires_grad:
                view.zero_()
        for weights, noise in zip(self.flat.flat, self._noise, strict=True):
            weights.add_(noise)

    @contextmanager
    def updating(self, apply: bool) -> Iterator[None]:
        with torch.no_grad():
            for weights, clean in zip(self.flat.flat, self._clean, strict=True):
                weights.copy_(clean)
        self.step += 1
        with super().updating(apply):
            yield

    def state_dict(self) -> State:
        return {"step": self.step}

    def load_state_dict(self, states: Sequence[Mapping[str, Any]], rank: int, world_size: int) -> None:
        self.step = states[0]["step"]
