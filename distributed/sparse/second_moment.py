"""Adam's second moment from dense gradients, held while gradients are sparse.

    every K steps, from B dense gradients in a row:   v    =  (1/B) sum_b g_b^2
    in the steps between:                             w   <-  w - lr m^ / (sqrt(v) + eps)        m^: Adam's mean of gradients

A sparse gradient brings an entry what has gathered in many steps, all at once: its square, averaged by Adam, is far
above that of the dense gradient, and steps are as much too short. With v held a step is linear in what arrives, so that
error feedback pays what it owes. Holding v is the idea of 1-bit Adam (Tang et al. 2021, arXiv 2102.02888), which never
renews it; renewing it is our own.

An entry without any gradient in a window, as the embedding of a token that did not occur, keeps Adam's own rule: a v of 0
would make its next step as long as one can be. So that no v is far too small by chance, it is at least ``LEAST`` of its
tensor's mean.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from distributed.errors import UsageError

FLOOR = 1e-5  # of what one gradient adds to v, the least that v is: below it rounding could make v negative
LEAST = 0.01  # of the mean of a tensor's v, of those entries that have one


def before_update(v: Tensor, gradient: Tensor, beta: float, step: Tensor | int) -> Tensor:
    """What Adam must find as its second moment so that it leaves v (1 - beta^t), which it corrects to v, in step t."""
    added = gradient.square().mul_(1 - beta)
    return torch.maximum(v * (1 - beta**step), FLOOR * added).sub_(added).div_(beta)


def held_of(mean_square: Tensor) -> Tensor:
    """v of a window from the mean of its squared gradients: 0 where there was none, else no less than ``LEAST`` allows."""
    exists = mean_square > 0
    least = LEAST * mean_square.sum() / exists.sum().clamp(min=1)
    return torch.where(exists, mean_square.maximum(least), 0.0)


class SecondMoment:
    """The second moments of the parameters that an Adam or AdamW trains; ``every`` and ``batches`` are K and B."""

    def __init__(self, every: int, batches: int) -> None:
        if batches >= every:
            raise UsageError(
                f"backend.refresh_batches={batches} dense steps in every {every} leave none that is compressed; set "
                f"backend.refresh_moments above {batches}, or null"
            )
        self.every = every
        self.batches = batches
        self._held: dict[str, Tensor] = {}  # v by the parameter's name
        self._sums: dict[str, Tensor] = {}  # of the squares since the window began
        self._seen = 0

    def check(self, optimizer: Optimizer) -> None:
        """Raise UsageError unless the optimizer keeps the second moments of Adam."""
        if not isinstance(optimizer, Adam):
            raise UsageError(
                f"backend.refresh_moments={self.every} holds the second moment of Adam, but the optimizer is "
                f"{type(optimizer).__name__}; set optimizer=adamw, or backend.refresh_moments=null"
            )

    def sends_dense(self, step: int) -> bool:
        """Whether gradients are sent whole in a step, counted from the first that may be compressed."""
        return step % self.every < self.batches

    @torch.no_grad()
    def observe(self, parameters: Mapping[str, nn.Parameter], step: int) -> None:
        """Take the gradients of a dense step that was finite; the last of a window renews v from what was taken in it."""
        place = step % self.every
        if place == 0:
            self._sums, self._seen = {}, 0
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                square = parameter.grad.square()
                self._sums[name] = square if name not in self._sums else self._sums[name].add_(square)
        self._seen += 1
        if place == self.batches - 1:
            self._held = {name: held_of(total.div_(self._seen)) for name, total in self._sums.items()}
            self._sums, self._seen = {}, 0

    @torch.no_grad()
    def hold(self, parameters: Mapping[str, nn.Parameter], optimizer: Optimizer) -> None:
        """Prepare the optimizer so that its next step uses v as it is held; nothing where there is none."""
        betas = {id(each): group["betas"][1] for group in optimizer.param_groups for each in group["params"]}
        for name, v in self._held.items():
            parameter = parameters[name]
            state = optimizer.state.get(parameter)
            if state and parameter.grad is not None:
                own, beta = state["exp_avg_sq"], betas[id(parameter)]
                own.copy_(torch.where(v > 0, before_update(v, parameter.grad, beta, state["step"] + 1), own))

    def state_dict(self) -> dict[str, Any]:
        """What is held, and a window under way."""
        return {"held": self._held, "sums": self._sums, "seen": self._seen, "window": [self.every, self.batches]}

    def load_state_dict(self, state: Mapping[str, Any], parameters: Mapping[str, nn.Parameter]) -> None:
        """Take a checkpoint's, on the devices of the parameters; a window under way only where windows are the same."""
        parts = ("held", "sums") if state["window"] == [self.every, self.batches] else ("held",)
        found = {
            part: {name: value.to(parameters[name]) for name, value in state[part].items() if name in parameters}
            for part in parts
        }
        self._held, self._sums = found["held"], found.get("sums", {})
        self._seen = state["seen"] if "sums" in found else 0


def second_moment(every: int | None, batches: int) -> SecondMoment | None:
    """The rule of a scheme's options; None without one."""
    return None if every is None else SecondMoment(every, batches)
