"""A transform and a hook of tests: what a quantised twin will do, in its smallest form."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.models.speech_model import SpeechModel
from asr.training.hook import Hook

GAIN = 0.5


class DampedLinear(nn.Linear):
    """A linear layer of the same names and shapes, whose output is multiplied by ``gain``."""

    gain: float

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * functional.linear(x, self.weight, self.bias)


class DampEncoderProjection:
    """Replaces the subsampling's projection by its twin, with the same parameters."""

    def __init__(self, *, gain: float) -> None:
        self.gain = gain

    def __call__(self, model: SpeechModel) -> SpeechModel:
        old = model.encoder.subsample.project
        with torch.device("meta"):
            twin = DampedLinear(old.in_features, old.out_features)
        twin.weight, twin.bias, twin.gain = old.weight, old.bias, self.gain
        model.encoder.subsample.project = twin
        return model


class Damping(Hook):
    """Trains with the twin."""

    def transforms(self) -> list[dict[str, object]]:
        return [{"_target_": "tests.transforms.DampEncoderProjection", "gain": GAIN}]
