"""The result of one step of one learner, for the log and for the watch over bad steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from distributed.backend import GradientReport


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one step of one learner. It is kept until a row is written, so no tensor here holds a graph."""

    report: GradientReport
    losses: list[float]  # summed loss of each unit
    weight: float  # total weight of the units: number of usable utterances
    sums: Sequence[Mapping[str, Tensor]]  # summed terms of each unit, or each part of one, by name
    regularisers: Mapping[str, Tensor]  # per-step terms, by name

    def term_means(self) -> dict[str, float]:
        """This learner's mean of every summed term and the value of every per-step term, for the log."""
        means: dict[str, float] = {}
        for sums in self.sums:
            for name, value in sums.items():
                means[f"train/{name}"] = means.get(f"train/{name}", 0.0) + float(value) / max(self.weight, 1.0)
        return means | {f"train/{name}": float(value) for name, value in self.regularisers.items()}
