"""Measures, at evaluations, how decentralised SGD changes the effective learning rate (arXiv 2112.01433, section 2).

    g_a  the mean of the learners' mini-batch gradients, each at the learner's own weights     alpha_e = alpha g_a.g / |g|^2
    g_0  the same mini-batches, all at the mean weights                                        sigma_w^2 = n^-2 sum |w_j - w_a|^2
    g    a larger, disjoint batch at the mean weights, for the gradient of the whole loss

The formulas and the other metrics are in distributed/gossip/diagnostics.py. The batches are global batches of the
training plan, drawn anew for every measurement, with the augmentation and dropout of training; a unit has the same
ones at both weights. Where all learners hold the same weights, g_0 is g_a.
"""

from collections.abc import Mapping

from asr.data.batch import keyed_seed
from asr.hooks.measurement import Measurement, drawn_batches
from asr.runs.progress import Progress
from asr.training.hook import Run
from distributed.errors import UsageError
from distributed.gossip.diagnostics import StepGradients, weight_variance
from distributed.ranges import Count


def measured_gradients(run: Run, progress: Progress, probe_batches: int) -> StepGradients:
    """Compute g_a, g_0 and g inside ``backend.consensus()``; collective: each learner takes its share of each batch."""
    seed = keyed_seed(run.seed, "diagnostics", progress.samples)
    batch, probe = drawn_batches(run.plan, progress.epoch, seed, probe_batches)
    rank, size = run.world.rank, run.world.size
    own = run.gradients.load(run.plan.learner_units(batch, rank, size))
    with run.backend.own_weights():
        at_own = run.gradients.mean(own)
    at_mean = at_own if run.backend.synchronous or size == 1 else run.gradients.mean(own)
    units = [unit for each in probe for unit in run.plan.learner_units(each, rank, size)]
    return StepGradients(at_own, at_mean, of_loss=run.gradients.mean(run.gradients.load(units)))


class TooFewBatchesError(UsageError):
    """An epoch has fewer batches than a measurement needs."""


class Diagnostics(Measurement):
    """Logs the metrics at every ``every``-th evaluation, with the gradient g of ``probe_batches`` global batches.

    alpha is the learning rate of the ordinary weights at the global batch before, as for plain SGD; gradients are those
    before clipping. Under an optimizer that rescales them or keeps moments, alpha_e / alpha and ratios of the others still
    tell how far gradients agree, but none of them is the length of a step.
    """

    def __init__(self, *, every: Count, probe_batches: Count) -> None:
        super().__init__(every=every)
        self.probe_batches = probe_batches

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        """Raises TooFewBatchesError unless an epoch has at least ``probe_batches`` + 1 batches."""
        batches = len(run.plan.epoch(0))
        if batches <= self.probe_batches:
            raise TooFewBatchesError(
                f"hooks.diagnostics.probe_batches={self.probe_batches} must be below the {batches} global batches of an "
                f"epoch, as one more is needed: lower it, or make batches smaller (batch.units, batch.unit_utterances)"
            )
        super().on_fit_start(run, resumed)

    def measure(self, run: Run, progress: Progress, metrics: Mapping[str, float]) -> dict[str, float]:
        gradients = measured_gradients(run, progress, self.probe_batches)
        alpha = run.learning_rate.at(max(0.0, progress.samples - run.plan.nominal_batch))
        distance = metrics.get("consensus/distance", 0.0)  # absent where learners hold the same weights
        return gradients.diagnostics(alpha) | {"diagnostics/sigma_w2": weight_variance(distance, run.world.size)}
