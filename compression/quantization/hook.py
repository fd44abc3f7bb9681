"""Quantisation-aware training: the model computes with few bits while it trains (arXiv 2108.12074, 2206.07882).

Layers become quantised twins by a transform, which model folders carry, so that evaluation needs no hook. Weights are
quantised anew in every forward; the bounds of activations are parameters: equal on all learners where gradients are,
mixed with the weights under gossip. They do not decay, are not scaled with the batch, clipped or compressed.
"""

from typing import Any

from asr.models.speech_model import SpeechModel
from asr.runs.progress import Progress
from asr.training.hook import Hook, ParameterGroup, Run
from asr.training.inference import Inference
from compression.quantization.activations import ActivationKind, HiddenKind, LearnedBounds
from compression.quantization.calibration import calibrate
from compression.quantization.transform import transform_node
from compression.quantization.weights import Grouping, WeightKind
from compression.scheme import named
from distributed.ranges import Bits, Count, Positive


class QuantizationAwareTraining(Hook):
    """Trains with quantised twins; ``scheme`` overrides the other settings for patterns of modules."""

    def __init__(
        self,
        *,
        bits: Bits,
        weights: WeightKind,
        groups: Grouping,
        inputs: ActivationKind,
        hidden: HiddenKind,
        scheme: list[dict[str, Any]],
        calibration_batches: Count,
        bound_lr: Positive,
    ) -> None:
        self.node = transform_node(
            scheme, "hooks.qat_int4.scheme", bits=bits, weights=weights, groups=groups, inputs=inputs, hidden=hidden
        )
        self.calibration_batches = calibration_batches
        self.bound_lr = bound_lr
        self.model: SpeechModel | None = None

    def transforms(self) -> list[dict[str, Any]]:
        """The transform, with all settings of each pattern."""
        return [self.node]

    def on_parameter_groups(self, model: SpeechModel) -> list[ParameterGroup]:
        """The learned bounds, if there are any."""
        names = tuple(
            f"{name}.{own}"
            for name, module in model.named_modules()
            if isinstance(module, LearnedBounds)
            for own, parameter in module.named_parameters()
            if parameter.requires_grad
        )
        group = ParameterGroup(names, {"lr": self.bound_lr}, clip=False, scale_lr=False, compress=False)
        return [group] if names else []

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        """Calibrate what is not calibrated: all learners from the same batches; a resumed run has its bounds."""
        self.model = run.model
        if resumed:
            return
        inference = Inference(run.model, run.world.device, run.precision)
        with named("hooks.qat_int4: "):
            calibrate(inference, run.batches("train", run.seed), self.calibration_batches)

    def on_evaluation(self, progress: Progress, metrics: dict[str, float]) -> None:
        """Add the smallest and the largest bound: one that collapses shows before the word error rate does."""
        assert self.model is not None
        modules = [each for each in self.model.modules() if isinstance(each, LearnedBounds)]
        bounds = [float(each.bounds()[1]) for each in modules]
        if bounds:
            metrics |= {"qat_int4/smallest_bound": min(bounds), "qat_int4/largest_bound": max(bounds)}
