"""Log-mel energies as ``torchaudio.compliance.kaldi.fbank`` computes them, with window and filters that are kept.

Of each frame the mean is removed and 0.97 times the sample before (of the first sample: itself) is subtracted; a Povey
window (a Hann window to the power 0.85) follows, the power spectrum over the next power of 2, mel filters and the natural
logarithm. torchaudio makes window and filters anew for each utterance, which takes as long as what they are for.

S samples   T frames   W samples of a frame   N points of the spectrum   K = N / 2 + 1 frequencies   F mel bins
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from asr.torchaudio_parts import torchaudio_part

PRE_EMPHASIS = 0.97
POVEY_POWER = 0.85


@dataclass(frozen=True, slots=True)
class Filterbank:
    """The settings that decide on window and filters."""

    sample_rate: int
    window_samples: int
    shift_samples: int
    num_mels: int
    low_hz: float
    high_hz: float  # 0: the Nyquist frequency; negative: below it

    @property
    def points(self) -> int:
        """N, the size of the Fourier transform."""
        return 1 << (self.window_samples - 1).bit_length()

    def __call__(self, samples_S: Tensor, *, whole_frames_only: bool) -> Tensor:
        """(T, F) energies in the dtype of the samples; see ``frames_of`` for ``whole_frames_only``."""
        frames_TW = frames_of(samples_S, self.window_samples, self.shift_samples, whole_frames_only=whole_frames_only)
        frames_TW = frames_TW - frames_TW.mean(1, keepdim=True)
        windowed_TN = frames_TW.new_zeros(len(frames_TW), self.points)
        emphasised_TW = windowed_TN[:, : self.window_samples]
        emphasised_TW[:, 0] = frames_TW[:, 0] * (1 - PRE_EMPHASIS)
        torch.sub(frames_TW[:, 1:], frames_TW[:, :-1], alpha=PRE_EMPHASIS, out=emphasised_TW[:, 1:])
        emphasised_TW.mul_(window(self.window_samples, samples_S.device, samples_S.dtype))
        power_TK = torch.view_as_real(torch.fft.rfft(windowed_TN)).square_().sum(-1)
        energies_TF = power_TK @ filters(self, samples_S.device, samples_S.dtype)
        return energies_TF.clamp_(min=torch.finfo(torch.float32).eps).log_()


def frames_of(samples_S: Tensor, window_samples: int, shift_samples: int, *, whole_frames_only: bool) -> Tensor:
    """A view (T, W) of frames that lie wholly in the signal; or one in the middle of each shift, the ends mirrored."""
    if not whole_frames_only:
        count = (len(samples_S) + shift_samples // 2) // shift_samples
        before = window_samples // 2 - shift_samples // 2  # samples of the first frame that lie before the signal
        mirrored = samples_S.flip(0)
        left = mirrored[len(mirrored) - before :] if before > 0 else mirrored[:0]
        samples_S = torch.cat([left, samples_S[max(0, -before) :], mirrored])
        samples_S = samples_S[: (count - 1) * shift_samples + window_samples]
    return samples_S.unfold(0, window_samples, shift_samples)


@lru_cache(maxsize=16)
def window(samples: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The Povey window (W,)."""
    with torch.inference_mode(False):
        return torch.hann_window(samples, periodic=False, device=device, dtype=dtype).pow_(POVEY_POWER)


@lru_cache(maxsize=16)
def filters(bank: Filterbank, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The mel filters (K, F); the Nyquist frequency is in none."""
    with torch.inference_mode(False):
        filters_FK, _ = torchaudio_part("compliance.kaldi").get_mel_banks(
            bank.num_mels, bank.points, float(bank.sample_rate), bank.low_hz, bank.high_hz, 100.0, -500.0, 1.0
        )
        nyquist_1F = filters_FK.new_zeros(1, bank.num_mels)
        return torch.cat([filters_FK.t(), nyquist_1F]).to(device=device, dtype=dtype)
