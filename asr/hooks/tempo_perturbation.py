"""Tempo perturbation: utterances are spoken faster and slower by the same voice: the pitch stays.

Ko et al. 2015, "Audio augmentation for speech recognition" (Interspeech), section 2.2. There it is ``sox tempo``; here
a phase vocoder, torchaudio's: the short-time spectrum is read at another rate, and its phases go on as the frequencies
in every bin say. Windows of 32 ms keep the harmonics of a voice apart and its onsets together. Neighbouring bins drift
apart in phase, which takes about 1 dB of a steady tone: nothing that normalised features would show.

N samples
"""

import math
from collections.abc import Sequence
from functools import cache, partial

import torch
from torch import Tensor

from asr.hooks.changed_rate import ChangedRate, Factor, Version
from asr.torchaudio_parts import torchaudio_part
from distributed.errors import UsageError
from distributed.ranges import Count, Positive

HOPS_PER_WINDOW = 4  # Hann windows at this distance sum to a constant, also squared


def change_tempo(waveform_N: Tensor, factor: float, window_samples: int) -> Tensor:
    """(N,) to (ceil(N / factor),): above 1 is faster, frequencies stay, and 1 returns the samples unchanged."""
    if factor == 1:
        return waveform_N
    hop = window_samples // HOPS_PER_WINDOW
    window, advance = _analysis(window_samples)
    # In single precision, for half the time: phases add up to a million in 30 s, and agree with double precision to 29 dB.
    spectrum = torch.stft(waveform_N, window_samples, hop, window=window, pad_mode="constant", return_complex=True)
    stretched = torchaudio_part("functional").phase_vocoder(spectrum, factor, advance)
    length = math.ceil(len(waveform_N) / factor)
    return torch.istft(stretched, window_samples, hop, window=window, length=length)


@cache
def _analysis(window_samples: int) -> tuple[Tensor, Tensor]:
    """The window, and the phase advance of each bin's frequency from one hop to the next."""
    bins, hop = window_samples // 2 + 1, window_samples // HOPS_PER_WINDOW
    advance = torch.linspace(0.0, math.pi * hop, bins)[:, None]
    return torch.hann_window(window_samples), advance


def tempos(factors: Sequence[float], sample_rate: int, window_ms: float) -> list[Version]:
    """A version for each factor, with windows of ``window_ms``, rounded to whole hops."""
    window_samples = HOPS_PER_WINDOW * max(1, round(sample_rate * window_ms / 1000 / HOPS_PER_WINDOW))
    return [(factor, partial(change_tempo, factor=factor, window_samples=window_samples)) for factor in factors]


class TempoPerturbation(ChangedRate):
    """Gives every training utterance one of the tempos."""

    def __init__(self, *, factors: list[Factor], sample_rate: Count, window_ms: Positive) -> None:
        if not factors:
            raise UsageError("hooks.tempo_perturbation.factors is empty; name one or more tempos, e.g. [0.9, 1.0, 1.1]")
        super().__init__(tempos(factors, sample_rate, window_ms))
