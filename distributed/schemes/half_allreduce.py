"""All-reduce of gradients in half precision: half the bytes, without error feedback. The same as torch's fp16 hook.

Gradients are divided by L before they are rounded, so that their sum does not overflow where they do not; a sum that
does all the same is not finite, and the step is skipped by all.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from distributed.learners.world import World
from distributed.sparse.compressed import CompressedBackend


def share_of_mean(gradient: Tensor, learners: float, dtype: torch.dtype) -> Tensor:
    """What one learner adds to the sum over learners, g_i / L rounded to ``dtype``; overwrites ``gradient``."""
    return gradient.div_(learners).to(dtype)


class HalfAllReduce(CompressedBackend):
    """Averages gradients in ``dtype``: float16 has the finer steps, bfloat16 the range of float32."""

    def __init__(self, *, dtype: Literal["float16", "bfloat16"], world: World) -> None:
        super().__init__(warmup_steps=0, world=world)
        self.dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}[dtype]

    @torch.no_grad()
    def _reduce(self, usable: bool) -> bool:
        finite = True
        for gradient in self._messages():
            message = share_of_mean(gradient, self.world.size if usable else math.nan, self.dtype)
            gradient.copy_(self.exchange.all_reduce_sum(message, uncompressed_elements=0))
            finite &= bool(torch.isfinite(message).all())
        return finite
