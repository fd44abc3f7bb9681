"""The parts that a trainer is built from."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch.optim import Optimizer

from asr.data.pipeline import UnitBatches
from asr.data.plan import BatchPlan
from asr.runs.checkpoint_folder import CheckpointFolder
from asr.training.clock import CheckpointClock
from asr.training.evaluation import Evaluator
from asr.training.hook import Hook, Run
from asr.training.memory import MemoryGuard
from asr.training.objective import Objective
from asr.training.parts import LoaderOptions
from asr.training.recorder import Recorder
from asr.training.units import UnitSource
from distributed.learners.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of a trainer, built by the caller in the order that asr/training/hook.py gives."""

    run: Run
    objective: Objective
    optimizer: Optimizer
    hooks: Mapping[str, Hook]
    units: UnitSource
    dataset: UnitBatches
    evaluator: Evaluator
    checkpoints: CheckpointFolder
    clock: CheckpointClock
    recorder: Recorder
    memory: MemoryGuard
    loader: LoaderOptions

    @property
    def world(self) -> World:
        """The learners of the run."""
        return self.run.world

    @property
    def plan(self) -> BatchPlan:
        """The batch plan of the run."""
        return self.run.plan
