"""The loss of one forward pass over a unit, while hooks add to it.

objective  =  weight * summed / divisor  +  per_step
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(slots=True)
class LossTerms:
    """The loss of one pass over a unit, or over a part of one."""

    summed: Tensor  # scalar: sum over the utterances of the unit, later divided by the global weight
    last: bool  # whether this is the learner's last pass of the step
    per_step: Tensor | None = None  # scalar: counted once per step, independent of the batch
    sums: dict[str, Tensor] = field(default_factory=dict)  # for the log: detached summed terms, by name
    regularisers: dict[str, Tensor] = field(default_factory=dict)  # for the log: detached per-step terms, by name
    pass_name: str = ""  # where a step makes several passes over a unit
    weight: float = 1.0  # of this pass's summed loss in the objective

    def add(self, name: str, value: Tensor) -> None:
        """Add a term summed over the utterances of the unit."""
        self.summed = self.summed + value
        self.sums[name] = value.detach()

    def add_per_step(self, name: str, value: Tensor) -> None:
        """Add a term that does not depend on the batch (a regulariser); only allowed in the last pass of a step."""
        if not self.last:
            raise RuntimeError(f"per-step term {name!r} added to a pass that is not the last one of the step")
        self.per_step = value if self.per_step is None else self.per_step + value
        self.regularisers[name] = value.detach()

    def objective(self, divisor: float) -> Tensor:
        """The scalar whose backward is run: the weighted sum divided by ``divisor``, plus per-step terms undivided.

        A value that is not finite makes every gradient so, those of terms that have none included: what learners agree
        on is the gradient.
        """
        mean = self.summed / divisor if self.weight == 1.0 else self.summed * (self.weight / divisor)
        value = mean if self.per_step is None else mean + self.per_step
        return value * torch.where(value.detach().isfinite(), 1.0, math.nan)

    @property
    def value(self) -> Tensor:
        """The weighted sum, detached: the logged loss of a unit is the sum of these over its passes."""
        return self.weight * self.summed.detach()

    def logged(self) -> dict[str, Tensor]:
        """The summed terms by the name of their metric, with the name of the pass in front where it has one."""
        return {f"{self.pass_name}/{name}" if self.pass_name else name: value for name, value in self.sums.items()}
