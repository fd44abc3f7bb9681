"""Quantisers of activations: bounds that are learned, calibrated or known.

    step = (a- + a+) / 2n       z = round(a- / step)       code = clamp(round(x / step), -z, 2n - z)       x^ = code x step

Zero is a level whatever the bounds, and there are 2n + 1 levels, 15 of 4 bits. Symmetric bounds are one number a = a- = a+.

    PACT    d x^ / d a+  =  1 above a+                  d x^ / d a-  =  -1 below -a-       (Choi et al. 2018, arXiv 1805.06085)
    PACT+   and between the bounds  (round(x/step) - x/step) / 2n  for either              (as in LSQ, arXiv 1902.08153)
    MAX     bounds are the largest values of the calibration, and stay
    fixed   a is known: 1 for a hidden state, 1 / (1 - dropout) for one after dropout      (BAC, arXiv 2108.12074)

d x^ / d x is 1 between the bounds, else 0. Bounds of a batch would make what is recognised depend on its batch mates.

D features, the last axis of x
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compression.quantization.weights import levels
from distributed.errors import UsageError

ActivationKind = Literal["pact", "pact_symmetric", "pact_plus", "pact_plus_symmetric", "max", "max_symmetric"]
HiddenKind = Literal["fixed", "pact_symmetric", "pact_plus_symmetric"]
SMALLEST = 1e-3  # a learned bound acts as no smaller one, so that it cannot collapse


def grid(lower_1: Tensor, upper_1: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Step and zero point z, (1,) each, of the bounds -``lower_1`` and ``upper_1``."""
    step_1 = (lower_1 + upper_1) / (2 * levels(bits))
    return step_1, (lower_1 / step_1).round()


def codes_between(x: Tensor, step_1: Tensor, zero_1: Tensor, bits: int) -> Tensor:
    """Whole numbers -z ... 2n - z in the shape of ``x``."""
    return (x / step_1).round_().clamp_(-zero_1, 2 * levels(bits) - zero_1)


class _Bounded(torch.autograd.Function):
    """See ``bounded``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lower_1: Tensor, upper_1: Tensor, bits: int, residual: bool) -> Tensor:
        lower_1, upper_1 = lower_1.to(x.dtype), upper_1.to(x.dtype)
        step_1, zero_1 = grid(lower_1, upper_1, bits)
        ctx.save_for_backward(x, lower_1, upper_1)
        ctx.bits, ctx.residual = bits, residual
        return codes_between(x, step_1, zero_1, bits).mul_(step_1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, lower_1, upper_1 = ctx.saved_tensors
        above, below = x > upper_1, x < -lower_1
        inside = gradient.masked_fill(above | below, 0.0)
        shared: Tensor | float = 0.0
        if ctx.residual:
            step_1, zero_1 = grid(lower_1, upper_1, ctx.bits)
            rest = codes_between(x, step_1, zero_1, ctx.bits).sub_(x / step_1)
            shared = rest.mul_(inside).sum() / (2 * levels(ctx.bits))
        by_upper = (gradient * above).sum() + shared
        by_lower = shared - (gradient * below).sum()
        return inside, by_lower.view(1), by_upper.view(1), None, None


def acting(lower_1: Tensor, upper_1: Tensor, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """The bounds as they act: at least SMALLEST, but a lower one of 0 is that of values which are never negative.

    Their gradients are multiplied by ``factor``.
    """
    return _at_least(lower_1, SMALLEST if lower_1 is upper_1 else 0.0, factor), _at_least(upper_1, SMALLEST, factor)


class _AtLeast(torch.autograd.Function):
    """max(x, least) with the gradient of the identity, times ``factor``: a bound that fell below can rise again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, least: float, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clamp_min(least)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.factor * gradients[0], None, None


def _at_least(x: Tensor, least: float, factor: float) -> Tensor:
    limited: Tensor = _AtLeast.apply(x, least, factor)
    return limited


def bounded(x: Tensor, lower_1: Tensor, upper_1: Tensor, bits: int, *, residual: bool, factor: float = 1.0) -> Tensor:
    """``x`` on the levels between -``lower_1`` and ``upper_1``; the same tensor twice: symmetric.

    Args:
        residual: PACT+ where true, else PACT.
        factor: of the gradients of the bounds, which are sums over all elements.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    values: Tensor = _Bounded.apply(x, *acting(lower_1, upper_1, factor), bits, residual)
    return values


class FixedBound(nn.Module):
    """Quantises between -``bound`` and ``bound``, which are known; no parameters."""

    def __init__(self, *, bits: int, bound: float) -> None:
        super().__init__()
        self.bits = bits
        self.bound = bound

    def forward(self, x: Tensor) -> Tensor:
        """The quantised ``x``."""
        bound_1 = x.new_full((1,), self.bound)
        return bounded(x, bound_1, bound_1, self.bits, residual=False)

    def step(self) -> Tensor:
        """The step, (1,)."""
        return torch.tensor([self.bound / levels(self.bits)])

    def codes(self, x: Tensor) -> Tensor:
        """The codes of ``x``: code x step = its quantised values."""
        return codes_between(x, self.step().to(x), x.new_full((1,), levels(self.bits)), self.bits)

    def extra_repr(self) -> str:
        """The settings shown when the model is printed."""
        return f"bits={self.bits}, bound={self.bound:g}"


class LearnedBounds(nn.Module):
    """Quantises between bounds that are parameters, ``upper`` and unless symmetric ``lower``; 0 until they are calibrated.

    The gradient of a bound is divided by sqrt(n D), as of LSQ but whatever the number of frames, so that a unit that is run
    in parts has the same one.
    """

    def __init__(self, *, bits: int, kind: ActivationKind, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.bits = bits
        self.kind = kind
        learned = not kind.startswith("max")
        zero_1 = torch.zeros(1, device=device, dtype=dtype)
        self.upper = nn.Parameter(zero_1, requires_grad=learned)
        self.lower = None if kind.endswith("symmetric") else nn.Parameter(zero_1.clone(), requires_grad=learned)
        self.seen: list[tuple[float, float]] | None = (
            None  # lowest and highest value of each forward, while calibrating
        )

    def forward(self, x: Tensor) -> Tensor:
        """The quantised ``x``; while calibrating ``x`` itself, whose range is noted."""
        if self.seen is not None:
            self.seen.append(value_range(x, self.kind))
            return x
        factor = self.factor(x.shape[-1])
        lower = self.upper if self.lower is None else self.lower
        return bounded(x, lower, self.upper, self.bits, residual=self.residual, factor=factor)

    @property
    def residual(self) -> bool:
        """Whether bounds learn from rounding errors too."""
        return "plus" in self.kind

    def factor(self, features: int) -> float:
        """What the gradients of the bounds are multiplied by, for inputs of D features."""
        return float(levels(self.bits) * features) ** -0.5

    @property
    def calibrated(self) -> bool:
        """Whether the bounds were calibrated, here or in the run that the weights come from."""
        return bool(self.upper > 0)

    def set_bounds(self, lowest: float, highest: float) -> None:
        """Set the bounds to a range of values; UsageError unless it is finite."""
        largest = max(-lowest, highest)
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise UsageError(
                f"a calibrated range of {lowest:g} ... {highest:g} is not finite; start from sound weights"
            )
        with torch.no_grad():
            self.upper.fill_(max(largest if self.lower is None else highest, SMALLEST))
            if self.lower is not None:
                self.lower.fill_(max(-lowest, 0.0))

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The bounds a-, a+ as they act, (1,) each."""
        with torch.no_grad():
            return acting(self.upper if self.lower is None else self.lower, self.upper)

    def acting_upper(self, features: int) -> Tensor:
        """The bound a+ as it acts, (1,), with its gradient, for a layer that quantises in its own way."""
        return acting(self.upper, self.upper, self.factor(features))[1]

    def step(self) -> Tensor:
        """The step, (1,)."""
        return grid(*self.bounds(), self.bits)[0]

    def zero_point(self) -> Tensor:
        """z, (1,): codes are -z ... 2n - z; n where the bounds are symmetric."""
        return grid(*self.bounds(), self.bits)[1]

    def codes(self, x: Tensor) -> Tensor:
        """The codes of ``x``: code x step = its quantised values."""
        lower_1, upper_1 = self.bounds()
        step_1, zero_1 = grid(lower_1.to(x.dtype), upper_1.to(x.dtype), self.bits)
        return codes_between(x, step_1, zero_1, self.bits)

    def extra_repr(self) -> str:
        """The settings shown when the model is printed."""
        return f"bits={self.bits}, kind={self.kind}"


TAIL = 0.001  # of the values on either side, which a learned bound begins without


def value_range(x: Tensor, kind: ActivationKind) -> tuple[float, float]:
    """Lowest and highest value of ``x``; for learned bounds the values that 0.1 % lie below and above."""
    flat = x.detach().flatten()
    if kind.startswith("max"):
        return float(flat.min()), float(flat.max())
    place = max(1, round(TAIL * flat.numel()))
    return float(flat.kthvalue(place).values), float(flat.kthvalue(flat.numel() + 1 - place).values)
