"""Post-training quantisation as a pass: the transform of quantised twins and calibrated bounds, without any training.

The baseline of quantisation-aware training, and the way to 8 bits, which rarely need more. Bounds of activations come from
the first batches of the training split, as in training (compression/quantization/calibration.py).
"""

from dataclasses import replace
from typing import Any

import torch

from asr.parts import build
from asr.runs.model_folder import LoadedModel
from asr.training.inference import Inference
from asr.training.precision import Precision
from compression.compress import Batches
from compression.quantization.activations import ActivationKind, HiddenKind
from compression.quantization.calibration import calibrate
from compression.quantization.transform import refuse_quantized, transform_node
from compression.quantization.weights import Grouping, WeightKind
from compression.scheme import named
from distributed.ranges import Bits, Count


class PostTrainingQuantization:
    """Quantises a trained model; ``scheme`` overrides the other settings for patterns of modules, as in training."""

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
    ) -> None:
        self.node = transform_node(
            scheme, "pass.scheme", bits=bits, weights=weights, groups=groups, inputs=inputs, hidden=hidden
        )
        self.calibration_batches = calibration_batches

    def __call__(self, loaded: LoadedModel, batches: Batches) -> LoadedModel:
        """The model with quantised twins, whose description names the transform.

        Raises:
            UsageError: it is quantised already, a pattern matches no layer, or a layer read nothing in calibration.
        """
        precision: Precision = "fp64" if loaded.description.dtype == "float64" else "fp32"
        refuse_quantized(loaded.model)
        with named("pass."):
            model = build(self.node)(loaded.model)
        with named("pass: "):
            calibrate(Inference(model, torch.device("cpu"), precision), batches("train"), self.calibration_batches)
        description = replace(loaded.description, transforms=[*loaded.description.transforms, self.node])
        return replace(loaded, model=model.eval(), description=description)
