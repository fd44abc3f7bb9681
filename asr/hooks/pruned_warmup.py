"""Warm-up of the pruned transducer loss (Kuang et al. 2022, arXiv 2206.13236, section 4; the ramps are those of icefall).

Until the first pass has learnt where the labels are, the windows of the second one are guesses: so the first pass has a
larger weight at the beginning, the second a smaller one. This is a hook because a loss does not know the run's
progress.
"""

from asr.losses.pruned import PrunedTransducerLoss
from asr.models.speech_model import SpeechModel
from asr.runs.progress import Progress
from asr.training.hook import Hook
from distributed.errors import UsageError
from distributed.ranges import Count, NonNegative


def ramp(first: float, last: float, step: int, steps: int) -> float:
    """A linear ramp from ``first`` at step 0 to ``last`` at ``steps``, constant after that."""
    return first + (last - first) * min(1.0, step / steps)


class PrunedWarmup(Hook):
    """Moves the scales of the two passes to those of ``model.loss``."""

    loss: PrunedTransducerLoss

    def __init__(self, *, steps: Count, first_simple_scale: NonNegative, first_pruned_scale: NonNegative) -> None:
        self.steps = steps
        self.first_simple_scale = first_simple_scale
        self.first_pruned_scale = first_pruned_scale

    def on_model(self, model: SpeechModel) -> SpeechModel:
        """Raises ValueError for a model with another loss."""
        loss = getattr(model, "loss", None)
        if not isinstance(loss, PrunedTransducerLoss):
            raise UsageError("hooks=[pruned_warmup] needs the pruned loss of a transducer: set model/loss=pruned")
        self.loss = loss
        return model

    def on_step_start(self, progress: Progress) -> None:
        settings, step = self.loss.settings, progress.global_step
        self.loss.simple_scale = ramp(self.first_simple_scale, settings.simple_scale, step, self.steps)
        self.loss.pruned_scale = ramp(self.first_pruned_scale, settings.pruned_scale, step, self.steps)
