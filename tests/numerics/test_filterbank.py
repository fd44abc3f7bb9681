"""The filterbank against torchaudio's, which makes window and filters anew for every utterance."""

import pytest
import torch
from torchaudio.compliance import kaldi

from asr.data.filterbank import Filterbank, filters


@pytest.mark.parametrize("whole_frames_only", [True, False])
@pytest.mark.parametrize(
    ("rate", "length_ms", "shift_ms", "num_mels", "high_hz", "samples"),
    [
        (16000, 25.0, 10.0, 80, 0.0, 6000),
        (16000, 25.0, 10.0, 80, -400.0, 400),  # one frame
        (8000, 20.0, 12.5, 40, 0.0, 2511),
        (11025, 25.0, 10.0, 23, -500.0, 4000),  # sizes that are odd
        (8000, 10.0, 25.0, 13, 0.0, 3000),  # frames that leave gaps
    ],
)
def test_energies_are_torchaudios(
    rate: int, length_ms: float, shift_ms: float, num_mels: int, high_hz: float, samples: int, whole_frames_only: bool
) -> None:
    bank = Filterbank(rate, int(rate * length_ms * 0.001), int(rate * shift_ms * 0.001), num_mels, 20.0, high_hz)
    signal_S = torch.randn(samples, generator=torch.Generator().manual_seed(0)) * 300 + 40
    expected_TF = kaldi.fbank(
        signal_S[None], sample_frequency=float(rate), num_mel_bins=num_mels, frame_length=length_ms, frame_shift=shift_ms,
        low_freq=20.0, high_freq=high_hz, snip_edges=whole_frames_only, dither=0.0,
    )  # fmt: skip
    found_TF = bank(signal_S, whole_frames_only=whole_frames_only)
    torch.testing.assert_close(found_TF, expected_TF, rtol=0, atol=2e-4)  # nepers, of sums in another order
    exact_TF = bank(signal_S.double(), whole_frames_only=whole_frames_only)
    assert exact_TF.dtype == torch.float64
    torch.testing.assert_close(found_TF.double(), exact_TF, rtol=0, atol=2e-4)


def test_silence_is_the_floor_and_the_signal_stays() -> None:
    signal_S = torch.zeros(1000)
    bank = Filterbank(16000, 400, 160, 20, 20.0, 0.0)
    found_TF = bank(signal_S, whole_frames_only=True)
    assert torch.equal(found_TF, torch.full((4, 20), torch.finfo(torch.float32).eps).log())
    assert not signal_S.any()


def test_filters_are_kept_for_settings_and_kind_of_numbers() -> None:
    one, same, other = (Filterbank(8000, 200, 80, num_mels, 20.0, 0.0) for num_mels in (20, 20, 21))
    cpu = torch.device("cpu")
    assert filters(one, cpu, torch.float32) is filters(same, cpu, torch.float32)
    assert filters(one, cpu, torch.float64).dtype == torch.float64
    assert filters(other, cpu, torch.float32).shape == (129, 21)
