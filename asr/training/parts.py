"""Small groups of settings that several parts of a run share, checked by their annotations."""

from dataclasses import dataclass
from typing import Literal

from distributed.ranges import Count, Natural, Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderOptions:
    """How units are read."""

    num_workers: Natural
    prefetch: Count
    cache: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions:
    """What is evaluated during training; the first set chooses the best checkpoint."""

    sets: list[str]
    unit_utterances: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """Where and how a learner runs."""

    device: Literal["auto", "cpu", "cuda"]
    threads: Count
    timeout_seconds: Positive
    matmul: Literal["auto", "mkl", "onednn"]
