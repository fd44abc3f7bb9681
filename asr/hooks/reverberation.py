"""Reverberation: speech is heard as in a room, by convolution with the impulse response of one.

Ko et al. 2017, "A study on data augmentation of reverberant speech for robust speech recognition" (ICASSP).
The direct path, the highest peak of the response, arrives at once, so that the speech keeps its position and
length; the signal is scaled back to its original mean power.
"""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from asr.hooks.recorded_effect import RecordedEffect, mean_power
from asr.torchaudio_parts import torchaudio_part

TRANSFORM_STEP = 1 << 14  # multiples of it are fast lengths; others take four times as long on average


def convolve(signal: Tensor, response: Tensor) -> Tensor:
    """(samples,) convolved with (taps,), from the direct path on and as long as the signal."""
    direct = int(response.abs().argmax())
    spare = -(len(signal) + len(response) - 1) % TRANSFORM_STEP
    wet: Tensor = torchaudio_part("functional").fftconvolve(pad(signal, (0, spare)), response)
    return wet[direct : direct + len(signal)]


def reverberate(signal: Tensor, response: Tensor) -> Tensor:
    """The signal in a room, at its original mean power; a silent signal or response leaves it unchanged."""
    wet = convolve(signal, response)
    power = mean_power(wet)
    return wet * (mean_power(signal) / power) ** 0.5 if power > 0 else signal


class Reverberation(RecordedEffect):
    """Puts some of the training utterances into a random room each."""

    key: ClassVar[str] = "hooks.reverberation"

    def effect(self, signal: Tensor, generator: torch.Generator) -> Tensor:
        return reverberate(signal, self.recordings.whole(self.recordings.draw(generator)))
