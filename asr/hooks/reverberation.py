"""Reverberation: speech is heard as in a room, by convolution with the impulse response of one.

Ko et al. 2017, "A study on data augmentation of reverberant speech for robust speech recognition" (ICASSP), section 3.
The direct path, the highest peak of the response, arrives at once, so that the speech stays where its transcript was
said and as long as it was; what a room adds to its loudness is taken away again.
"""

from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchaudio.functional import fftconvolve

from asr.data.batch import RawBatch, Stage
from asr.data.recordings import Recordings, read_recordings
from asr.hooks.additive_noise import mean_power
from asr.training.hook import Hook, Run
from distributed.ranges import Count, Fraction, NonNegative

TRANSFORM_STEP = 1 << 14  # multiples of it are fast lengths; others take four times as long on average


def convolve(signal: Tensor, response: Tensor) -> Tensor:
    """(samples,) convolved with (taps,), from the direct path on and as long as the signal."""
    direct = int(response.abs().argmax())
    spare = -(len(signal) + len(response) - 1) % TRANSFORM_STEP
    return fftconvolve(pad(signal, (0, spare)), response)[direct : direct + len(signal)]


def reverberate(signal: Tensor, response: Tensor) -> Tensor:
    """The signal in a room, with the mean power that it had; of silence or a silent response nothing is changed."""
    wet = convolve(signal, response)
    power = mean_power(wet)
    return wet * (mean_power(signal) / power) ** 0.5 if power > 0 else signal


class Reverberation(Hook):
    """Puts some of the training utterances into a random room each."""

    stage: ClassVar[Stage | None] = "waveform"

    def __init__(self, *, manifest: Path, sample_rate: Count, probability: Fraction, cache_gb: NonNegative) -> None:
        self.manifest = Path(manifest)
        self.sample_rate = sample_rate
        self.probability = probability
        self.cache_gb = cache_gb

    @cached_property
    def recordings(self) -> Recordings:
        """The impulse responses; read when training starts, since a trained model is used without them."""
        return read_recordings(
            self.manifest,
            key="hooks.reverberation.manifest",
            sample_rate=self.sample_rate,
            cache_gb=self.cache_gb,
        )

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        """Refuses responses that cannot be used before anything is trained, and before workers have copies of this."""
        len(self.recordings)

    def on_batch(self, raw: RawBatch) -> None:
        for position, signal in enumerate(raw.signals):
            generator = raw.generator(position)
            if float(torch.rand((), generator=generator, dtype=torch.float64)) < self.probability:
                raw.signals[position] = reverberate(signal, self.recordings.whole(self.recordings.draw(generator)))
