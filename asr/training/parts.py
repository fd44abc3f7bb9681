"""Small groups of settings that several parts of a run share, checked by their annotations."""

from dataclasses import dataclass
from typing import Literal

from asr.runs.checkpoint import Retention
from distributed.ranges import Count, Natural, NonNegative, Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderOptions:
    """Settings of the data loader."""

    num_workers: Natural
    prefetch: Count
    cache_gb: NonNegative

    @property
    def cache_gb_per_process(self) -> float:
        """Cache size of each loading process: every one of them meets all utterances, as the plan deals them out."""
        return self.cache_gb / max(1, self.num_workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions:
    """Settings of evaluations during training; the first set chooses the best checkpoint."""

    sets: list[str]
    unit_utterances: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointOptions:
    """Settings of checkpoints: which are kept, when they are written beside ``trainer.checkpoint_every``, and how."""

    keep_last: Count
    keep_best: Natural
    every_minutes: Positive | None
    in_background: bool

    @property
    def retention(self) -> Retention:
        """Which are kept."""
        return Retention(keep_last=self.keep_last, keep_best=self.keep_best)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """Settings of the processes: device, threads, and how learners meet."""

    device: Literal["auto", "cpu", "cuda"]
    threads: Count
    join_seconds: Positive
    timeout_seconds: Positive
    patience_seconds: Positive | None
    matmul: Literal["auto", "mkl", "onednn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerOptions:
    """Settings of the training loop; intervals are in global steps."""

    epochs: Count
    max_steps: Count | None
    max_norm: Positive | None
    max_bad_steps: Count
    precision: Literal["fp32", "bf16", "fp64"]
    memory_probe: bool
    memory_limit_gb: Positive | None
    log_every: Count
    evaluate_every: Count
    checkpoint_every: Count
