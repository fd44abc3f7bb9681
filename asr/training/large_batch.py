"""Optimizers for large batches: the step of every tensor is measured by the norm of that tensor.

LARS  You, Gitman & Ginsburg 2017, arXiv 1708.03888, algorithm 1     LAMB  You et al. 2020, arXiv 1904.00962, algorithm 2

A large batch wants a large learning rate, and the largest one that still trains differs between layers by orders of
magnitude; the ratio ||w|| / ||update|| (the trust ratio) evens that out. Tensors of one dimension (biases, norms) and
groups with ``scale_lr=False`` take plain steps, as is usual: their norms say nothing about a sensible step.
"""

from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer


def trust_ratios(numerators: Tensor, denominators: Tensor, adapted: Tensor) -> Tensor:
    """numerator / denominator per tensor, all of shape (tensors,); 1 where not ``adapted`` or where either is 0."""
    usable = adapted & (numerators > 0) & (denominators > 0)
    return torch.where(usable, numerators / torch.where(usable, denominators, 1.0), 1.0)


def _norms(tensors: list[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(tensors))


class LayerwiseOptimizer(Optimizer):
    """The part that LARS and LAMB share: the loop over groups, ascent, and the choice of adapted tensors."""

    def __init__(self, groups: Sequence[dict[str, Any]], defaults: dict[str, Any]) -> None:
        super().__init__(list(groups), {"maximize": False, "scale_lr": True, **defaults})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                gradients = [weight.grad for weight in weights]
                if group["maximize"]:
                    gradients = list(torch._foreach_neg(gradients))
                self._update(group, weights, gradients)
        return loss

    def _update(self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]) -> None:
        raise NotImplementedError

    def _moments(self, weights: list[Tensor], name: str) -> list[Tensor]:
        """The running averages of these weights, zero at first."""
        for weight in weights:
            if name not in self.state[weight]:
                self.state[weight][name] = torch.zeros_like(weight)
        return [self.state[weight][name] for weight in weights]

    @staticmethod
    def _adapted(group: dict[str, Any], weights: list[Tensor]) -> Tensor:
        flags = [group["scale_lr"] and weight.dim() > 1 for weight in weights]
        return torch.tensor(flags, device=weights[0].device)


class Lars(LayerwiseOptimizer):
    """Layer-wise adaptive rate scaling of SGD with momentum m, weight decay b and trust coefficient c:

    ratio = c ||w|| / (||g|| + b ||w||);   v <- m v + lr ratio (g + b w);   w <- w - v

    The rate is inside the momentum, as in the paper: gradients accumulated at an earlier rate keep that rate.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        trust_coefficient: float,
        weight_decay: float,
    ) -> None:
        super().__init__(
            groups,
            {"lr": lr, "momentum": momentum, "trust_coefficient": trust_coefficient, "weight_decay": weight_decay},
        )

    def _update(self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]) -> None:
        decay = group["weight_decay"]
        weight_norms = _norms(weights)
        ratios = trust_ratios(
            group["trust_coefficient"] * weight_norms,
            _norms(gradients) + decay * weight_norms,
            self._adapted(group, weights),
        )
        updates = torch._foreach_add(gradients, weights, alpha=decay)
        torch._foreach_mul_(updates, list((group["lr"] * ratios).unbind()))
        velocities = self._moments(weights, "velocity")
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, updates)
        torch._foreach_sub_(weights, velocities)


class Lamb(LayerwiseOptimizer):
    """Layer-wise adaptive moments for batch training, with bias correction and phi the identity:

    m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2;   r = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
    w <- w - lr ||w|| / ||r + decay w|| (r + decay w)
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _update(self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]) -> None:
        updates = self._adam_directions(group, weights, gradients)
        torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
        ratios = trust_ratios(_norms(weights), _norms(updates), self._adapted(group, weights))
        torch._foreach_mul_(updates, list((group["lr"] * ratios).unbind()))
        torch._foreach_sub_(weights, updates)

    def _adam_directions(self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        beta1, beta2 = group["betas"]
        first, second = self._moments(weights, "first"), self._moments(weights, "second")
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        steps = [self._count(weight) for weight in weights]
        scales = torch._foreach_div(second, [1 - beta2**step for step in steps])
        torch._foreach_sqrt_(scales)
        torch._foreach_add_(scales, group["eps"])
        torch._foreach_mul_(scales, [1 - beta1**step for step in steps])
        return list(torch._foreach_div(first, scales))

    def _count(self, weight: Tensor) -> int:
        """Number of updates of this tensor, this one included: one that missed steps is corrected by its own count."""
        self.state[weight]["step"] = self.state[weight].get("step", 0) + 1
        return int(self.state[weight]["step"])
