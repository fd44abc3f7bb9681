"""Log-mel filterbank features as Kaldi computes them (asr/data/filterbank.py).

Povey window, pre-emphasis 0.97, mean removed per frame, power spectrum, mel filters from 20 Hz to the Nyquist
frequency (Kaldi's own default; recipes that stop 400 Hz below it differ in the top bins), natural logarithm, only
frames that lie wholly in the signal. Waveforms with full scale 1 are scaled to 16-bit range, which Kaldi reads. What
the model sees may have deltas beside the mel bins, and several frames in one: see ``asr.data.context``.

T frames   F mel bins   S = ceil(T / stack) stacked frames   D = stack x (1 + deltas) x F
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from asr.data.context import stack_frames, with_deltas
from asr.data.filterbank import Filterbank, filters
from distributed.errors import UsageError
from distributed.ranges import Count, NonNegative, Positive

INT16_SCALE = 32768.0
LOW_FREQUENCY_HZ = 20.0
NYQUIST = 0.0  # Kaldi's way of saying it
LONGEST_WINDOW_SAMPLES = 1 << 20  # more are a mistake, and ask for more memory than there is
VARIANCE_FLOOR = 1e-4  # floor of a bin's variance: a bin that is constant but for rounding becomes 0, not noise


def normalise(mel_TF: Tensor) -> Tensor:
    """Zero mean and unit variance of every bin over the utterance's frames; (T, F) to (T, F)."""
    if mel_TF.shape[0] == 0:
        return mel_TF
    variance_F, mean_F = torch.var_mean(mel_TF, dim=0, correction=0)
    return (mel_TF - mean_F) * variance_F.clamp_min(VARIANCE_FLOOR).rsqrt()


class LogMel:
    """From waveforms to features. Three steps, since hooks work between: ``mel``, ``normalise``, ``in_context``.

    A subclass with other filters, framing or scale sets the three attributes below.
    """

    high_frequency_hz: ClassVar[float] = NYQUIST
    """Upper end of the filters; negative: below the Nyquist frequency."""

    whole_frames_only: ClassVar[bool] = True
    """Whether frames lie wholly in the signal; otherwise a frame is centred in each shift, and ends are mirrored."""

    full_scale: ClassVar[float] = INT16_SCALE
    """Value that a sample of 1 is given before the spectrum."""

    def __init__(
        self,
        *,
        sample_rate: Count,
        num_mels: Count,
        frame_length_ms: Positive,
        frame_shift_ms: Positive,
        dither: NonNegative,
        normalise: Literal["utterance", "none"],
        deltas: Literal[0, 1, 2],
        stack: Count,
    ) -> None:
        self.sample_rate = sample_rate
        self.num_mels = num_mels
        self.frame_length_ms = frame_length_ms
        self.frame_shift_ms = frame_shift_ms
        self.dither = dither
        self.normalisation = normalise
        self.deltas = deltas
        self.stack = stack
        # The same expressions as Kaldi's and torchaudio's, rounding included.
        self.window_samples = int(sample_rate * frame_length_ms * 0.001)
        self.shift_samples = int(sample_rate * frame_shift_ms * 0.001)
        self.filterbank = Filterbank(
            sample_rate=sample_rate,
            window_samples=self.window_samples,
            shift_samples=self.shift_samples,
            num_mels=num_mels,
            low_hz=LOW_FREQUENCY_HZ,
            high_hz=self.high_frequency_hz,
        )
        self._check()

    def _check(self) -> None:
        if self.window_samples < 2 or self.shift_samples < 1:
            raise UsageError(
                f"features.frame_length_ms={self.frame_length_ms:g} and features.frame_shift_ms="
                f"{self.frame_shift_ms:g} are below 2 and 1 samples at {self.sample_rate} Hz; make them longer"
            )
        if self.num_mels < 4:
            raise UsageError(f"features.num_mels must be at least 4, got {self.num_mels}")
        if self.window_samples > LONGEST_WINDOW_SAMPLES:
            raise UsageError(
                f"features.frame_length_ms={self.frame_length_ms:g} are {self.window_samples} samples at "
                f"{self.sample_rate} Hz; at most {LONGEST_WINDOW_SAMPLES} make a window"
            )
        points = self.filterbank.points
        if self.num_mels > points:  # a frequency lies in two filters at most
            raise UsageError(
                f"features.num_mels={self.num_mels} is too large: a {points}-point spectrum has {points // 2} frequencies"
            )
        filters_KF = filters(self.filterbank, torch.device("cpu"), torch.float32)
        if empty := int((filters_KF.sum(dim=0) == 0).sum()):
            raise UsageError(
                f"features.num_mels={self.num_mels} is too large: {empty} filters hold no frequency of a {points}-point "
                f"spectrum at {self.sample_rate} Hz; take fewer, or a longer features.frame_length_ms"
            )

    @property
    def dimension(self) -> int:
        """D, the dimension of the encoder's input."""
        return self.stack * (1 + self.deltas) * self.num_mels

    @property
    def frame_seconds(self) -> float:
        """Seconds from one frame of the encoder's input to the next."""
        return self.stack * self.frame_shift_ms / 1000

    def frames_of(self, num_samples: int) -> int:
        """Number of frames of the encoder's input for a waveform of ``samples``; 0 if it is shorter than a window."""
        return self.frames_of_mel(self.mel_frames_of(num_samples))

    def frames_of_mel(self, mel_frames: int) -> int:
        """Number of frames of the encoder's input for a number of frames before stacking."""
        return -(-mel_frames // self.stack)

    def mel_frames_of(self, num_samples: int) -> int:
        """Number of frames before stacking for a number of frames of the encoder's input."""
        if num_samples < self.window_samples:
            return 0
        if not self.whole_frames_only:
            return (num_samples + self.shift_samples // 2) // self.shift_samples
        return 1 + (num_samples - self.window_samples) // self.shift_samples

    def frames(self, duration_seconds: float) -> int:
        """``frames_of`` a waveform of ``duration_seconds``, rounded to whole samples."""
        return self.frames_of(round(duration_seconds * self.sample_rate))

    def mel(self, waveform: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Log-mel energies, before normalisation.

        Args:
            waveform: (samples,) float32, full scale at 1.
            generator: draws the dither noise; without one every call has the same noise. Kaldi draws noise per
                frame, here it is added to the waveform, so that overlapping frames see the same signal.

        Returns:
            (T, F) float32; T = 0 if the waveform is shorter than a window.
        """
        if self.frames_of(len(waveform)) == 0:
            return waveform.new_zeros(0, self.num_mels)
        samples = waveform * self.full_scale
        if self.dither > 0:
            noise = torch.Generator().manual_seed(0) if generator is None else generator
            samples = samples + self.dither * (self.full_scale / INT16_SCALE) * torch.randn(
                samples.shape, generator=noise
            )
        return self.filterbank(samples, whole_frames_only=self.whole_frames_only)

    def mel_of_stretch(self, samples: Tensor) -> Tensor:
        """As ``mel``, of the frames that lie wholly in a stretch of a recording, and without dither."""
        return self.filterbank(samples * self.full_scale, whole_frames_only=True)

    def normalise(self, mel_TF: Tensor) -> Tensor:
        """(T, F) to (T, F), normalised over the utterance unless ``features.normalise=none``."""
        return normalise(mel_TF) if self.normalisation == "utterance" else mel_TF

    def in_context(self, normalised_TF: Tensor) -> Tensor:
        """The model's input: (T, F) to (S, D), with deltas, then stacked; by default the features unchanged."""
        return stack_frames(with_deltas(normalised_TF, self.deltas), self.stack)

    def model_input(self, waveform: Tensor) -> Tensor:
        """All steps in a row, without hooks: (samples,) to (S, D)."""
        return self.in_context(self.normalise(self.mel(waveform)))
