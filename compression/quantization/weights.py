"""Quantisers of weights: the clip follows from the current weights at every use, so that nothing is stored beside them.

    step = a / n      code = clamp(round(w / step), -n, n)      w^ = code x step        n = 2^(bits-1) - 1: 15 levels of 4 bits

Levels are symmetric and zero is one of them: what dropout or pruning sets to zero stays zero.

    MAX     a = max |w|
    SAWB    a = c1 sqrt(mean w^2) + c2 mean |w|      statistics-aware binning (Choi et al. 2018, arXiv 1807.06964)
    SAWB+   the same clip; the gradient also passes to weights outside of it (the SAWB of arXiv 2206.07882)

Gradients are straight-through: those of w^ are those of w, inside the clip. A stored clip would be wrong as soon as
learners mix their weights: the mean of clips is not the clip of the mean.

G groups of weights with a step of their own   N weights of a group
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from distributed.errors import UsageError

WeightKind = Literal["max", "sawb", "sawb_plus"]
Grouping = Literal["tensor", "gate", "row"]
GATES = 4  # of an LSTM, stacked along the first axis of its matrices

# (c1, c2) by bits, as published for levels that are symmetric around zero. Those of 6 bits are not published: they are the
# paper's regression (section 3.2) of MSE-optimal clips on sqrt(mean w^2) / mean |w| over its six distributions; the same
# regression gives 11.8, -11.9 at 4 bits and 27.5, -30.3 at 7.
SAWB = {
    2: (2.6, -1.71), 3: (7.509, -6.892), 4: (12.035, -12.03), 5: (17.74, -18.64), 6: (22.17, -23.99), 7: (28.24, -30.81),
    8: (31.76, -35.04),
}  # fmt: skip


def levels(bits: int) -> int:
    """The largest code n of ``bits``; codes are -n ... n."""
    return int(2 ** (bits - 1)) - 1


def max_clip(weight_GN: Tensor) -> Tensor:
    """a = max |w| of each group, (G,)."""
    return weight_GN.abs().amax(1)


def sawb_clip(weight_GN: Tensor, bits: int) -> Tensor:
    """a = c1 sqrt(mean w^2) + c2 mean |w| of each group, (G,); at least sqrt(mean w^2).

    The lower limit is the best clip of weights of one magnitude, of which the linear fit knows nothing; densities as flat
    as the uniform one lie above it.
    """
    first, second = SAWB[bits]
    count = weight_GN.shape[1]
    root_mean_square_G = torch.linalg.vector_norm(weight_GN, 2, dim=1) / count**0.5
    mean_G = torch.linalg.vector_norm(weight_GN, 1, dim=1) / count
    return torch.maximum(first * root_mean_square_G + second * mean_G, root_mean_square_G)


def to_codes(weight: Tensor, step_G: Tensor, bits: int) -> Tensor:
    """Whole numbers -n ... n in the shape of ``weight``, whose rows form G groups of equal size, one after the other."""
    codes_GN = weight.reshape(len(step_G), -1) / step_G[:, None]
    return codes_GN.round_().clamp_(-levels(bits), levels(bits)).view(weight.shape)


def from_codes(codes: Tensor, step_G: Tensor) -> Tensor:
    """The values that codes stand for: code x step."""
    return (codes.reshape(len(step_G), -1) * step_G[:, None]).view(codes.shape)


class _FakeQuantize(torch.autograd.Function):
    """code x step forward; backward the identity, or with ``clipped`` zero outside of n steps."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, step_G: Tensor, bits: int, clipped: bool) -> Tensor:
        if clipped:
            ctx.save_for_backward(weight, step_G)
        ctx.clip_steps = levels(bits) if clipped else None
        return from_codes(to_codes(weight, step_G, bits), step_G)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        if ctx.clip_steps is not None:
            weight, step_G = ctx.saved_tensors
            inside_GN = weight.reshape(len(step_G), -1).abs() <= ctx.clip_steps * step_G[:, None]
            gradient = gradient * inside_GN.view(weight.shape)
        return gradient, None, None, None


def fake_quantize(weight: Tensor, step_G: Tensor, bits: int, *, clipped: bool) -> Tensor:
    """code x step with the straight-through gradient; ``clipped``: none for weights beyond the clip."""
    quantized: Tensor = _FakeQuantize.apply(weight, step_G, bits, clipped)
    return quantized


@dataclass(frozen=True, slots=True)
class WeightQuantizer:
    """Quantises one matrix; it has no state.

    ``groups``: one step for the ``tensor``, one for each ``gate`` (of an LSTM's matrices; elsewhere one), one for each ``row``
    (output channel, embedded token).
    """

    kind: WeightKind
    bits: int
    groups: Grouping
    gates: int = 1  # gates stacked along the first axis

    def __post_init__(self) -> None:
        if self.kind != "max" and self.bits not in SAWB:
            raise UsageError(f"{self.kind} has a rule for 2 to 8 bits, got {self.bits}; choose these, or weights: max")

    def step(self, weight: Tensor) -> Tensor:
        """The steps (G,) of the current weights, in their dtype; groups of nothing but zeros have a tiny one."""
        with torch.no_grad():
            count = {"tensor": 1, "gate": self.gates, "row": len(weight)}[self.groups]
            weight_GN = weight.detach().reshape(count, -1)
            clip_G = max_clip(weight_GN) if self.kind == "max" else sawb_clip(weight_GN, self.bits)
            return clip_G.clamp_min(1e-20) / levels(self.bits)

    def codes(self, weight: Tensor) -> Tensor:
        """The codes of the current weights, int8 where they fit."""
        codes = to_codes(weight.detach(), self.step(weight), self.bits)
        return codes.to(torch.int8) if self.bits <= 8 else codes

    def __call__(self, weight: Tensor) -> Tensor:
        """The quantised weights, of which gradients pass to ``weight``."""
        return fake_quantize(weight, self.step(weight), self.bits, clipped=self.kind == "sawb")
