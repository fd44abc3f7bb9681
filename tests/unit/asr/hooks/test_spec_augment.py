"""Laws of SpecAugment: how much is masked, what stays untouched, repeatability, short utterances."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from asr.data.batch import RawBatch
from asr.hooks.spec_augment import SpecAugment, mask
from asr.parts import build

CONF = Path(__file__).parents[4] / "conf" / "hooks" / "spec_augment.yaml"
OFF: dict[str, Any] = {
    "frequency_masks": 0,
    "frequency_width": 0,
    "time_masks": 0,
    "time_width": 0,
    "time_fraction": 1.0,
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def raw_batch(ids: list[str], lengths: list[int], epoch: int = 0, seed: int = 1, hook: str = "a") -> RawBatch:
    signals = [torch.ones(length, 80) for length in lengths]
    return RawBatch(seed, epoch, ids, signals, [[1]] * len(ids), [[1]] * len(ids), hook=hook)


def masked_share(axis: int, seeds: int, **options: float) -> tuple[float, Tensor]:
    """Mean share of masked frames (axis 0) or bins (axis 1), and how often each of them was masked."""
    x_TF = torch.ones(50, 40)
    hidden = torch.stack(
        [mask(x_TF, generator(seed), **{**OFF, **options}).amax(1 - axis) == 0 for seed in range(seeds)]
    )
    return float(hidden.float().mean()), hidden.float().mean(0)


def test_one_time_mask_hides_half_its_widest_on_average() -> None:
    """Uniform on 0..10 of 50 frames: mean 5 / 50; the standard error over 4000 draws is 0.001."""
    share, per_frame = masked_share(0, 4000, time_masks=1, time_width=10)
    assert share == pytest.approx(0.1, abs=0.004)
    assert per_frame[0] > 0, "the first frame can be masked"
    assert per_frame[-1] > 0, "the last frame can be masked"


def test_one_frequency_mask_hides_half_its_widest_on_average() -> None:
    share, per_bin = masked_share(1, 4000, frequency_masks=1, frequency_width=8)
    assert share == pytest.approx(0.1, abs=0.004)
    assert per_bin[0] > 0
    assert per_bin[-1] > 0


def test_every_width_is_equally_likely() -> None:
    x_TF = torch.ones(50, 4)
    widths = torch.tensor(
        [
            int((mask(x_TF, generator(s), **{**OFF, "time_masks": 1, "time_width": 4}) == 0)[:, 0].sum())
            for s in range(5000)
        ]
    )
    counts = torch.bincount(widths, minlength=5).float()
    assert len(counts) == 5
    chi_squared = float(((counts - 1000) ** 2 / 1000).sum())
    assert chi_squared < 18.5  # 0.1 % point of 4 degrees of freedom


def test_the_fraction_limits_stretches_of_short_utterances() -> None:
    x_TF = torch.ones(20, 4)
    widest = max(
        int(
            (mask(x_TF, generator(seed), **{**OFF, "time_masks": 1, "time_width": 70, "time_fraction": 0.2}) == 0).sum()
        )
        for seed in range(500)
    )
    assert widest == 4 * 4


@given(
    frames=st.integers(1, 30),
    bins=st.integers(1, 12),
    frequency_masks=st.integers(0, 5),
    frequency_width=st.integers(0, 40),
    time_masks=st.integers(0, 5),
    time_width=st.integers(0, 100),
    time_fraction=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_masks_zero_whole_rows_and_columns_and_leave_the_rest_unchanged(
    frames: int,
    bins: int,
    frequency_masks: int,
    frequency_width: int,
    time_masks: int,
    time_width: int,
    time_fraction: float,
    seed: int,
) -> None:
    x_TF = torch.rand(frames, bins, generator=generator(seed)) + 1
    before_TF = x_TF.clone()
    masked_TF = mask(
        x_TF,
        generator(seed),
        frequency_masks=frequency_masks,
        frequency_width=frequency_width,
        time_masks=time_masks,
        time_width=time_width,
        time_fraction=time_fraction,
    )
    assert torch.equal(x_TF, before_TF), "the given features are not written to"
    hidden_TF = masked_TF == 0
    assert torch.equal(masked_TF[~hidden_TF], x_TF[~hidden_TF])
    assert not hidden_TF.all()
    rows_T, columns_F = hidden_TF.all(1), hidden_TF.all(0)
    assert torch.equal(hidden_TF, rows_T[:, None] | columns_F[None, :])
    assert int(rows_T.sum()) <= time_masks * int(min(time_width, time_fraction * frames))
    assert int(columns_F.sum()) <= frequency_masks * frequency_width


def test_an_empty_utterance_is_left_to_those_who_report_it() -> None:
    options = {**OFF, "time_masks": 2, "time_width": 5, "frequency_masks": 1, "frequency_width": 3}
    assert mask(torch.zeros(0, 8), generator(0), **options).shape == (0, 8)


def test_off_is_the_identity() -> None:
    x_TF = torch.randn(9, 5, generator=generator(0))
    assert torch.equal(mask(x_TF, generator(0), **OFF), x_TF)


def hook() -> SpecAugment:
    built = build(OmegaConf.load(CONF))
    assert isinstance(built, SpecAugment)
    return built


def test_masks_depend_on_seed_epoch_utterance_and_configured_name_alone() -> None:
    together, alone = raw_batch(["a", "b", "c"], [200, 150, 90]), raw_batch(["c", "b"], [90, 150])
    hook().on_batch(together)
    hook().on_batch(alone)
    assert torch.equal(together.signals[1], alone.signals[1])
    assert torch.equal(together.signals[2], alone.signals[0])
    for key in ({"epoch": 1}, {"seed": 2}, {"ids": ["x"]}, {"hook": "b"}):
        changed = raw_batch(**{"ids": ["b"], "lengths": [150], **key})
        hook().on_batch(changed)
        assert not torch.equal(changed.signals[0], alone.signals[1])


def test_the_hook_leaves_the_features_it_was_given_alone() -> None:
    raw = raw_batch(["a"], [200])
    cached = raw.signals[0]
    hook().on_batch(raw)
    assert torch.equal(cached, torch.ones(200, 80))
    assert (raw.signals[0] == 0).any()


def test_it_runs_on_normalised_features_under_its_own_name() -> None:
    assert SpecAugment.stage == "normalised"
    assert SpecAugment.changes_training
    assert CONF.read_text().startswith("# @package hooks.spec_augment\n")
