"""Deltas against torchaudio and against Kaldi's algorithm frame by frame; stacking against slices."""

import pytest
import torch
from torchaudio.functional import compute_deltas

from asr.data.context import stack_frames, with_deltas


def kaldi_deltas(x_TF: torch.Tensor, orders: int) -> torch.Tensor:
    """feat/feature-functions.cc: filters of order k are those of k - 1 folded with (-2 -1 0 1 2) / 10, on clamped x."""
    frames, filters = len(x_TF), [[1.0]]
    for _ in range(orders):
        wider = [0.0] * (len(filters[-1]) + 4)
        for shift in range(-2, 3):
            for place, value in enumerate(filters[-1]):
                wider[place + 2 + shift] += shift * value / 10
        filters.append(wider)
    rows = []
    for t in range(frames):
        parts = []
        for taps in filters:
            reach = len(taps) // 2
            near = [x_TF[min(max(t + shift, 0), frames - 1)] for shift in range(-reach, reach + 1)]
            parts.append(sum((tap * row for tap, row in zip(taps, near, strict=True)), torch.zeros_like(x_TF[0])))
        rows.append(torch.cat(parts))
    return torch.stack(rows)


@pytest.mark.parametrize("orders", [0, 1, 2])
@pytest.mark.parametrize("frames", [1, 2, 5, 23])
def test_deltas_are_kaldis(frames: int, orders: int) -> None:
    x_TF = torch.randn(frames, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(frames))
    torch.testing.assert_close(with_deltas(x_TF, orders), kaldi_deltas(x_TF, orders), rtol=1e-12, atol=1e-12)


def test_deltas_are_torchaudios() -> None:
    """Double deltas but for the two frames at each end, where torchaudio repeats the outermost delta."""
    x_TF = torch.randn(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    delta_FT = compute_deltas(x_TF.T)
    double_FT = compute_deltas(delta_FT)
    found_TF = with_deltas(x_TF, 2)
    torch.testing.assert_close(found_TF[:, :4], x_TF, rtol=0, atol=0)
    torch.testing.assert_close(found_TF[:, 4:8], delta_FT.T, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found_TF[2:-2, 8:], double_FT.T[2:-2], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found_TF[:2, 8:], double_FT.T[:2])


def test_a_ramp_has_its_slope_and_a_parabola_its_bend() -> None:
    time_T1 = torch.arange(20, dtype=torch.float64).unsqueeze(1)
    inner = slice(4, -4)
    found_T3 = with_deltas(torch.cat([3 * time_T1, 0.5 * time_T1**2], dim=1), 2)
    torch.testing.assert_close(found_T3[inner, 2:4], torch.cat([torch.full_like(time_T1, 3), time_T1], 1)[inner])
    torch.testing.assert_close(found_T3[inner, 4:], torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(12, 2))


def test_deltas_of_nothing() -> None:
    assert with_deltas(torch.zeros(0, 3), 2).shape == (0, 9)
    assert stack_frames(torch.zeros(0, 3), 2).shape == (0, 6)


@pytest.mark.parametrize("stack", [1, 2, 3])
@pytest.mark.parametrize("frames", [1, 2, 6, 7])
def test_stacked_frames_are_consecutive_and_filled_up_with_zeros(frames: int, stack: int) -> None:
    x_BTF = torch.arange(1.0, 2 * frames * 3 + 1).view(2, frames, 3)
    stacked = stack_frames(x_BTF, stack)
    assert stacked.shape == (2, -(-frames // stack), 3 * stack)
    flat = stacked.reshape(2, -1, 3)
    assert torch.equal(flat[:, :frames], x_BTF)
    assert not flat[:, frames:].any()
