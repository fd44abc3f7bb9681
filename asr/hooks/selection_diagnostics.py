"""Measures, at evaluations, how good the leader's choice of entries is under ``backend=scalecom``.

Every learner takes the gradient of its part of a global batch, drawn from the training plan, and the backend says what
the next leader would choose of memory plus gradient, and what that is worth: the figures of
distributed/selection_figures.py (arXiv 2104.11125, section 3.3).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from asr.data.batch import keyed_seed
from asr.hooks.diagnostics import drawn_batches
from asr.training.hook import Hook, Progress, Run
from distributed.ranges import Count
from distributed.scalecom import ScaleCom


class NoSelectionError(ValueError):
    """The backend has no leader whose choice could be measured."""


class SelectionDiagnostics(Hook):
    """Logs ``comm/index_overlap`` and others at every ``every``-th evaluation."""

    changes_training: ClassVar[bool] = False

    def __init__(self, *, every: Count) -> None:
        self.every = every
        self.evaluations = 0
        self.run: Run | None = None

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        """Raises NoSelectionError under another backend than scalecom."""
        if not isinstance(run.backend, ScaleCom):
            raise NoSelectionError(
                f"hooks.selection_diagnostics measures the leader's choice under backend=scalecom, but the backend is "
                f"{type(run.backend).__name__}: leave the hook out, or choose backend=scalecom"
            )
        self.run = run

    def on_evaluation(self, progress: Progress, metrics: dict[str, float]) -> None:
        run = self.run
        assert run is not None
        assert isinstance(run.backend, ScaleCom)
        self.evaluations += 1
        if self.evaluations % self.every:
            return
        seed = keyed_seed(run.seed, "selection diagnostics", progress.samples)
        batch, _ = drawn_batches(run.plan, progress.epoch, seed, probe_batches=0)
        batches = run.gradients.load(run.plan.learner_units(batch, run.world.rank, run.world.size))
        metrics |= run.backend.selection_figures(run.gradients.own(batches))

    def state_dict(self) -> dict[str, Any]:
        return {"evaluations": self.evaluations}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.evaluations = state["evaluations"]
