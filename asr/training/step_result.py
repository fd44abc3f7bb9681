"""What one update of one learner gave, for the log and for the watch over bad steps."""

from dataclasses import dataclass

from asr.training.hook import LossTerms
from distributed.backend import GradientReport


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step of one learner gave."""

    report: GradientReport
    losses: list[float]  # summed loss of each unit
    terms: list[LossTerms]  # of each unit, or each part of one

    def term_means(self, weight: float) -> dict[str, float]:
        """This learner's mean of every summed term and the value of every per-step term, for the log."""
        means: dict[str, float] = {}
        for terms in self.terms:
            for name, value in terms.sums.items():
                means[f"train/{name}"] = means.get(f"train/{name}", 0.0) + float(value) / max(weight, 1.0)
            means |= {f"train/{name}": float(value) for name, value in terms.regularisers.items()}
        return means
