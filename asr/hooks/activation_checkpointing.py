"""Activation checkpointing: of some layers of the encoder the input alone is kept, and backward computes them again.

Chen et al. 2016, "Training deep nets with sublinear memory cost", arXiv 1604.06174, section 3, with a layer as the
segment: one layer's activations are in memory at a time, and a step costs one more forward of those layers. The random
state at a layer's begin is kept, so that dropout draws again what it drew, and gradients stay the same to the last bit.
"""

from typing import ClassVar

from asr.models.encoder import Encoder
from asr.models.speech_model import SpeechModel
from asr.training.hook import Hook
from distributed.errors import UsageError
from distributed.ranges import Count


class ActivationCheckpointing(Hook):
    """Computes every ``every``-th layer of the encoder again in backward."""

    changes_training: ClassVar[bool] = False

    def __init__(self, *, every: Count) -> None:
        self.every = every

    def on_model(self, model: SpeechModel) -> SpeechModel:
        """Raises UsageError for a model without an encoder, or if it has fewer layers than ``every``."""
        encoder = getattr(model, "encoder", None)
        if not isinstance(encoder, Encoder):
            raise UsageError("hooks.activation_checkpointing: this model has no encoder; leave the hook out")
        layers = len(encoder.layers)
        if self.every > layers:
            raise UsageError(
                f"hooks.activation_checkpointing.every={self.every}: the encoder has {layers} layers; "
                "choose a number that is not above it"
            )
        encoder.recomputed = frozenset(range(self.every - 1, layers, self.every))
        return model
