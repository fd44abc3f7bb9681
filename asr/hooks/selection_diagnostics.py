"""Measures, at evaluations, the quality of the leader's choice of entries under ``backend=scalecom``.

Every learner takes the gradient of its part of a global batch, drawn from the training plan, clips it as a step does,
and the backend computes the entries of memory plus gradient that the next leader would choose, and the metrics of
distributed/sparse/selection_figures.py (arXiv 2104.11125, section 3.3). From the start of the run, or of its resume, it
also has the backend note when each entry was sent: distributed/sparse/ages.py.
"""

from collections.abc import Mapping
from functools import partial

from asr.data.batch import keyed_seed
from asr.hooks.measurement import Measurement, drawn_batches
from asr.runs.progress import Progress
from asr.training.hook import Run
from distributed.errors import UsageError
from distributed.schemes.scalecom import ScaleCom


class NoSelectionError(UsageError):
    """The backend has no leader whose choice could be measured."""


class SelectionDiagnostics(Measurement):
    """Logs ``comm/index_overlap`` and other metrics at every ``every``-th evaluation."""

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        """Raises NoSelectionError under backends other than scalecom."""
        if not isinstance(run.backend, ScaleCom):
            raise NoSelectionError(
                f"hooks.selection_diagnostics measures the leader's choice under backend=scalecom, but the backend is "
                f"{type(run.backend).__name__}: leave the hook out, or choose backend=scalecom"
            )
        run.backend.count_ages()
        super().on_fit_start(run, resumed)

    def measure(self, run: Run, progress: Progress, metrics: Mapping[str, float]) -> dict[str, float]:
        assert isinstance(run.backend, ScaleCom)
        seed = keyed_seed(run.seed, "selection diagnostics", progress.samples)
        batch, _ = drawn_batches(run.plan, progress.epoch, seed, probe_batches=0)
        batches = run.gradients.load(run.plan.learner_units(batch, run.world.rank, run.world.size))
        clip = partial(run.backend.clip_own_gradients, run.max_norm)
        return run.backend.selection_figures(run.gradients.own(batches, clip))
