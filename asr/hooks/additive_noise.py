"""Additive noise: recordings of noise are mixed into the speech, so that the model learns to hear through them.

As in Ko et al. 2017, "A study on data augmentation of reverberant speech for robust speech recognition" (ICASSP):
with s the speech, n the noise and P the mean power over the utterance,

    s + g n      g^2 = P(s) / (P(n) 10^(SNR / 10))
"""

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from asr.hooks.recorded_effect import RecordedEffect, mean_power
from distributed.ranges import Count, Fraction, NonNegative, checked_interval


def mix(signal: Tensor, noise: Tensor, snr_db: float) -> Tensor:
    """Signal and noise, both (samples,), at a ratio of their mean powers; unchanged if either is silent."""
    noise_power = mean_power(noise)
    if noise_power == 0:
        return signal
    gain = (mean_power(signal) / noise_power) ** 0.5 * 10 ** (-snr_db / 20)
    return signal + gain * noise


class AdditiveNoise(RecordedEffect):
    """Mixes a random excerpt of a random recording into some of the training utterances."""

    key: ClassVar[str] = "hooks.additive_noise"

    def __init__(
        self,
        *,
        manifest: Path,
        sample_rate: Count,
        probability: Fraction,
        snr_db: tuple[float, float],
        cache_gb: NonNegative,
    ) -> None:
        super().__init__(manifest=manifest, sample_rate=sample_rate, probability=probability, cache_gb=cache_gb)
        self.snr_db = checked_interval(f"{self.key}.snr_db", snr_db)

    def effect(self, signal: Tensor, generator: torch.Generator) -> Tensor:
        lowest, highest = self.snr_db
        height = float(torch.rand((), generator=generator, dtype=torch.float64))
        noise = self.recordings.excerpt(self.recordings.draw(generator), len(signal), generator)
        return mix(signal, noise, lowest + height * (highest - lowest))
