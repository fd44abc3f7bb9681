"""Additive noise: recordings of noise are mixed into the speech, so that the model learns to hear through them.

As in Ko et al. 2017, "A study on data augmentation of reverberant speech for robust speech recognition" (ICASSP),
section 3.2: with s the speech, n the noise and P the mean power over the utterance,

    s + g n      g^2 = P(s) / (P(n) 10^(SNR / 10))
"""

from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from asr.data.batch import RawBatch, Stage
from asr.data.recordings import Recordings, read_recordings
from asr.training.hook import Hook, Run
from distributed.ranges import Count, Fraction, NonNegative, checked_interval


def mean_power(waveform: Tensor) -> float:
    """Mean square of (samples,), in double precision; 0 without samples."""
    return float(waveform.double().square().sum()) / max(1, len(waveform))


def mix(signal: Tensor, noise: Tensor, snr_db: float) -> Tensor:
    """Signal and noise, both (samples,), at a ratio of their mean powers; what is silent, of either, adds nothing."""
    noise_power = mean_power(noise)
    if noise_power == 0:
        return signal
    gain = (mean_power(signal) / noise_power) ** 0.5 * 10 ** (-snr_db / 20)
    return signal + gain * noise


class AdditiveNoise(Hook):
    """Mixes a random excerpt of a random recording into some of the training utterances."""

    stage: ClassVar[Stage | None] = "waveform"

    def __init__(
        self,
        *,
        manifest: Path,
        sample_rate: Count,
        probability: Fraction,
        snr_db: tuple[float, float],
        cache_gb: NonNegative,
    ) -> None:
        self.manifest = Path(manifest)
        self.sample_rate = sample_rate
        self.probability = probability
        self.snr_db = checked_interval("hooks.additive_noise.snr_db", snr_db)
        self.cache_gb = cache_gb

    @cached_property
    def recordings(self) -> Recordings:
        """What is drawn from; read when training starts, since a trained model is used without it."""
        return read_recordings(
            self.manifest,
            key="hooks.additive_noise.manifest",
            sample_rate=self.sample_rate,
            cache_gb=self.cache_gb,
        )

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        """Refuses recordings that cannot be used before anything is trained, and before workers have copies of this."""
        len(self.recordings)

    def on_batch(self, raw: RawBatch) -> None:
        lowest, highest = self.snr_db
        for position, signal in enumerate(raw.signals):
            generator = raw.generator(position)
            chance, height = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
            if chance < self.probability:
                index = self.recordings.draw(generator)
                noise = self.recordings.excerpt(index, len(signal), generator)
                raw.signals[position] = mix(signal, noise, lowest + height * (highest - lowest))
