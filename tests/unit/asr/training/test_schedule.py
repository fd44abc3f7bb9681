"""Learning rates at points worked out by hand."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn

from asr.parts import build
from asr.training.schedule import Constant, Horizon, LearningRate, Noam, OneCycle, Schedule, WarmupAnneal

CONF = Path(__file__).parents[4] / "conf" / "schedule"
HORIZON = Horizon(total_samples=1000, epoch_samples=100, batch_samples=10)

one_cycle = partial(OneCycle, warmup_fraction=0.2, start_factor=0.1, final_factor=0.0, reference_batch=None)


def optimizer_of(*groups: dict[str, object], lr: float = 0.1) -> torch.optim.SGD:
    given = groups or ({},)
    return torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], **group} for group in given], lr=lr)


@pytest.mark.parametrize(
    ("samples", "expected"), [(0, 0.1), (100, 0.55), (200, 1.0), (600, 0.5), (800, 0.25), (1000, 0.0), (1200, 0.0)]
)
def test_onecycle_linear(samples: int, expected: float) -> None:
    assert one_cycle(anneal="linear", horizon=HORIZON).factor(samples) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("samples", "expected"), [(200, 1.0), (400, (2 + math.sqrt(2)) / 4), (600, 0.5), (1000, 0.0)])
def test_onecycle_cosine(samples: int, expected: float) -> None:
    assert one_cycle(anneal="cosine", horizon=HORIZON).factor(samples) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("anneal", ["linear", "cosine"])
def test_onecycle_without_warmup_starts_at_the_peak(anneal: str) -> None:
    schedule = OneCycle(
        warmup_fraction=0.0,
        start_factor=0.1,
        final_factor=0.3,
        anneal=anneal,
        reference_batch=None,
        horizon=HORIZON,
    )
    assert [schedule.factor(0), schedule.factor(1000)] == pytest.approx([1.0, 0.3])


@pytest.mark.parametrize(("samples", "expected"), [(0, 0.25), (10, 0.5), (30, 1.0), (150, 0.5), (630, 0.25)])
def test_noam(samples: int, expected: float) -> None:
    """4 steps of 10 samples up; at step 16 = 4 x 4 the rate has halved, at 64 once more."""
    assert Noam(warmup_steps=4, reference_batch=None, horizon=HORIZON).factor(samples) == pytest.approx(expected)


def warmup_anneal(**changes: Any) -> WarmupAnneal:
    settings: dict[str, Any] = {
        "warmup_epochs": 10, "hold_epochs": 0, "start_factor": 0.1, "halving_epochs": 2.0, "anneal_every_epochs": 1,
        "raised_from": None, "raise_factor": 2.0, "reference_batch": None, "horizon": HORIZON,
    }  # fmt: skip
    return WarmupAnneal(**(settings | changes))


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 0.32), (5, 1.76), (9.9999, 3.2), (10, 3.2 / 2**0.5), (10.99, 3.2 / 2**0.5), (11, 1.6), (15, 0.4), (15.5, 0.4)],
)
def test_warmup_and_annealing_of_the_paper(epoch: float, expected: float) -> None:
    """arXiv 2110.11199: batch 8192, rate 0.1 x 8192 / 256 = 3.2; 0.32 at the start, 0.4 in the 16th epoch."""
    horizon = Horizon(total_samples=16 * 2**20, epoch_samples=2**20, batch_samples=8192)
    optimizer = optimizer_of(lr=0.1)
    schedule = warmup_anneal(warmup_epochs=10, reference_batch=256, horizon=horizon)
    rate = LearningRate(optimizer, schedule)
    rate.set(epoch * horizon.epoch_samples)
    assert rate.current == pytest.approx(expected, rel=1e-4)
    assert optimizer.param_groups[0]["lr"] == rate.current


def test_annealing_after_a_shorter_warmup() -> None:
    schedule = warmup_anneal(warmup_epochs=2, start_factor=0.5, halving_epochs=1.0)
    epochs = [0, 1, 1.5, 2, 2.9, 3, 5]
    assert [schedule.factor(100 * e) for e in epochs] == pytest.approx([0.5, 0.75, 0.875, 0.5, 0.5, 0.25, 0.0625])


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 2e-4), (5, 1.1e-3), (10, 2e-3), (15.9, 2e-3), (16, 2e-3 / 2**0.5), (24.9, 6.25e-5 * 2**0.5), (25, 1.25e-4)],
)
def test_a_schedule_may_hold_the_peak_and_raise_the_rate_at_the_end(epoch: float, expected: float) -> None:
    """arXiv 2108.10803, section 4: 2e-4 to 2e-3 in 10 epochs, held for 6, annealed from the 17th; 1.2e-4 in the 26th."""
    schedule = warmup_anneal(warmup_epochs=10, hold_epochs=6, raised_from=25)
    assert 2e-3 * schedule.factor(100 * epoch) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 0.1), (25, 0.55), (50, 1), (79.9, 1), (80, 2**-0.5), (84.9, 2**-0.5), (85, 0.5), (125, 2**-5), (129.9, 2**-5)],
)
def test_epochs_of_a_paper_that_are_several_passes_keep_one_rate(epoch: float, expected: float) -> None:
    schedule = warmup_anneal(warmup_epochs=50, hold_epochs=30, halving_epochs=10, anneal_every_epochs=5)
    assert schedule.factor(100 * epoch) == pytest.approx(expected)


@given(epoch=st.floats(0, 40), width=st.integers(1, 7))
def test_the_rate_falls_in_steps_of_a_width(epoch: float, width: int) -> None:
    """It is that of steps of one epoch at the last epoch of its step."""
    start = 12
    last = start + width * (math.floor(epoch) // width + 1) - 1
    wide, narrow = (warmup_anneal(hold_epochs=2, anneal_every_epochs=each) for each in (width, 1))
    assert wide.factor(100 * (start + math.floor(epoch))) == pytest.approx(narrow.factor(100 * last))


def test_flags_of_the_groups_are_honoured() -> None:
    optimizer = optimizer_of(
        {}, {"scale_lr": False}, {"schedule": False}, {"scale_lr": False, "schedule": False}, {"lr": 1.0}
    )
    schedule = one_cycle(anneal="linear", horizon=Horizon(1000, 100, 40), reference_batch=10)
    rate = LearningRate(optimizer, schedule)
    rate.set(600)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.05, 0.4, 0.1, 2.0])


def test_setting_twice_and_resuming_start_from_the_peak_again() -> None:
    schedule = one_cycle(anneal="linear", horizon=HORIZON)
    optimizer = optimizer_of()
    rate = LearningRate(optimizer, schedule)
    rate.set(800)
    rate.set(800)
    assert rate.current == pytest.approx(0.025)
    resumed = optimizer_of()
    resumed.load_state_dict(optimizer.state_dict())
    second = LearningRate(resumed, schedule)
    second.set(600)
    assert second.current == pytest.approx(0.05)


def test_the_rate_at_another_time_is_returned_without_setting_it() -> None:
    rate = LearningRate(optimizer_of(), one_cycle(anneal="linear", horizon=HORIZON))
    rate.set(800)
    before = rate.current
    assert rate.at(600) == pytest.approx(0.05)
    assert rate.current == before == rate.at(800)


def test_the_rate_does_not_depend_on_how_samples_are_cut_into_steps() -> None:
    one, other = optimizer_of(), optimizer_of()
    single, many = (LearningRate(o, Constant(reference_batch=5, horizon=HORIZON)) for o in (one, other))
    single.set(1000)
    for samples in range(0, 1001, 7):
        many.set(samples)
    assert single.current == many.current == pytest.approx(0.2)


@given(samples=st.floats(0, 2000), name=st.sampled_from(["constant", "onecycle", "noam", "warmup_anneal"]))
def test_the_shipped_factors_lie_between_zero_and_one(samples: float, name: str) -> None:
    schedule = build(OmegaConf.load(CONF / f"{name}.yaml"), horizon=HORIZON)
    assert isinstance(schedule, Schedule)
    assert schedule.horizon == HORIZON
    assert 0 <= schedule.factor(samples) <= 1


@pytest.mark.parametrize("field", ["total_samples", "epoch_samples", "batch_samples"])
def test_an_empty_run_is_refused(field: str) -> None:
    values = {"total_samples": 10, "epoch_samples": 10, "batch_samples": 10, field: 0}
    with pytest.raises(ValueError, match=f"{field} must be at least 1, got 0"):
        Horizon(**values)
