"""Log-mel features against an independent implementation: kaldi-native-fbank, Kaldi's own code in C++."""

import kaldi_native_fbank as knf
import numpy as np
import pytest
import torch

from asr.data.features import LogMel


def reference(samples: np.ndarray, sample_rate: int, num_mels: int, length_ms: float, shift_ms: float) -> np.ndarray:
    options = knf.FbankOptions()
    options.frame_opts.samp_freq = sample_rate
    options.frame_opts.dither = 0.0
    options.frame_opts.frame_length_ms = length_ms
    options.frame_opts.frame_shift_ms = shift_ms
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = num_mels
    fbank = knf.OnlineFbank(options)
    fbank.accept_waveform(sample_rate, (samples * 32768).tolist())
    fbank.input_finished()
    return np.stack([fbank.get_frame(t) for t in range(fbank.num_frames_ready)])


def speech_like(sample_rate: int, seconds: float) -> np.ndarray:
    """A gliding pulse train through a resonance, in noise, with a pause: wide dynamics like speech."""
    rng, time = np.random.default_rng(3), np.arange(round(sample_rate * seconds)) / sample_rate
    phase = np.cumsum(120 + 40 * np.sin(3 * time)) / sample_rate
    voiced = sum(np.sin(2 * np.pi * k * phase) / k for k in range(1, 20)) * np.exp(-3 * time)
    return (0.1 * voiced + 0.001 * rng.standard_normal(len(time)) + 0.01).astype(np.float32)


@pytest.mark.parametrize(
    ("sample_rate", "num_mels", "length_ms", "shift_ms"),
    [
        (16000, 80, 25.0, 10.0),
        (16000, 40, 20.0, 12.5),
        (8000, 80, 25.0, 10.0),
        (8000, 40, 25.0, 10.0),
        (11025, 23, 25.0, 10.0),
    ],
)
def test_log_mel_is_kaldis(sample_rate: int, num_mels: int, length_ms: float, shift_ms: float) -> None:
    samples = speech_like(sample_rate, 1.3)
    log_mel = LogMel(
        sample_rate=sample_rate,
        num_mels=num_mels,
        frame_length_ms=length_ms,
        frame_shift_ms=shift_ms,
        dither=0.0,
        normalise="none",
        deltas=0,
        stack=1,
    )
    mel_TF = log_mel.mel(torch.from_numpy(samples)).numpy()
    expected_TF = reference(samples, sample_rate, num_mels, length_ms, shift_ms)
    assert mel_TF.shape == expected_TF.shape
    np.testing.assert_allclose(mel_TF, expected_TF, atol=2e-3)  # nepers; energies span more than 15
    assert np.abs(mel_TF - expected_TF).mean() < 1e-4
