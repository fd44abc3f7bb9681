"""Measures, at evaluations, the quality of the leader's choice of entries under ``backend=scalecom``.

Every learner takes the gradient of its part of a global batch, drawn from the training plan, clips it as a step does,
and the backend computes the entries of memory plus gradient that the next leader would choose, and the metrics of
distributed/sparse/selection_figures.py (arXiv 2104.11125, section 3.3). From the start of the run, or of its resume, it
also has the backend note when each entry was sent: distributed/sparse/ages.py. Under SGD it estimates too whether a debt
along what learners owe now would grow: the second law of distributed/sparse/regime.py, with the curvature l of the loss along
the mean memory d from gradients at two places,

    l  =  d . (g(w + e d) - g(w)) / (e |d|^2)

on the same units with the same dropout.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import SGD

from asr.data.batch import Batch, keyed_seed
from asr.hooks.measurement import Measurement, drawn_batches
from asr.runs.progress import Progress
from asr.training.hook import Run
from asr.training.state import weights_restored
from distributed.errors import UsageError
from distributed.schemes.scalecom import ScaleCom
from distributed.sparse.regime import stability

SHIFT = 1e-3  # |e d| over |w|: far above rounding, and small enough that the loss is quadratic on the way

log = logging.getLogger(__name__)


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
        figures = run.backend.selection_figures(run.gradients.own(batches, clip))
        return figures | self._stability(run, run.backend, batches)

    def _stability(self, run: Run, backend: ScaleCom, batches: Sequence[Batch]) -> dict[str, float]:
        """Under plain SGD ``comm/stability``; nothing while nothing is owed."""
        memory = backend.mean_memory()
        if type(run.optimizer) is not SGD or not memory.any():
            return {}
        group = run.optimizer.param_groups[0]
        lr, momentum, rate = float(group["lr"]), float(group["momentum"]), backend.typical_rate
        curvature = curvature_along(memory, run, batches)
        found = stability(lr=lr, momentum=momentum, curvature=curvature, rate=rate, beta=backend.beta)
        if found > 1 and run.world.rank == 0:
            log.warning(
                "along what learners owe the learning rate is %.2g times the highest at which debts shrink "
                "(lr=%.3g, curvature %.2g, backend.rate=%d, backend.beta=%g): lower one of optimizer.lr, backend.rate and "
                "backend.beta (docs/methods/scalecom.md)",
                found, lr, curvature, rate, backend.beta,
            )  # fmt: skip
        return {"comm/stability": found}


def curvature_along(direction: Tensor, run: Run, batches: Sequence[Batch]) -> float:
    """Curvature of the mean loss of all learners' ``batches`` along ``direction``, shape (trainable elements,); collective.

    The weights are bitwise the same afterwards.
    """
    trained = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    step = SHIFT * get_total_norm(trained).item() / direction.norm().item()
    before = run.gradients.mean(batches)
    with weights_restored(trained):
        parts = direction.split([parameter.numel() for parameter in trained])
        with torch.no_grad():
            for parameter, part in zip(trained, parts, strict=True):
                parameter.add_(part.view_as(parameter), alpha=step)
        after = run.gradients.mean(batches)
    change = (after - before).to(direction)
    return float(direction @ change / (step * direction.square().sum()))
