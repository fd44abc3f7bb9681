"""Sequence noise: energies add exactly, how often, whom with, repeatability; partners are never mixed ones."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from asr.data.batch import RawBatch, keyed_seed
from asr.hooks.sequence_noise import SequenceNoise, add_spectrum
from asr.parts import build

CONF = Path(__file__).parents[4] / "conf" / "hooks" / "sequence_noise.yaml"
IDS = [f"u{index}" for index in range(8)]


def make(**changes: Any) -> SequenceNoise:
    built = build(OmegaConf.merge(OmegaConf.load(CONF), changes))
    assert isinstance(built, SequenceNoise)
    return built


def raw_batch(ids: list[str], *, epoch: int = 0, seed: int = 1, hook: str = "noise") -> RawBatch:
    """Each utterance has energies of its own, and a length of its own."""
    signals = [
        torch.randn(10 + keyed_seed(name) % 7, 4, generator=torch.Generator().manual_seed(keyed_seed(name)))
        for name in ids
    ]
    return RawBatch(seed, epoch, list(ids), signals, [[1]] * len(ids), [[1]] * len(ids), hook=hook)


@given(frames=st.integers(1, 12), others=st.integers(1, 12), scale=st.floats(1e-3, 10), seed=st.integers(0, 99))
def test_energies_add_exactly(frames: int, others: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mel, partner = (5 * torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (frames, others))
    rows = [partner[frame % others] for frame in range(frames)]
    torch.testing.assert_close(add_spectrum(mel, partner, scale).exp(), mel.exp() + scale * torch.stack(rows).exp())


def test_the_log_domain_avoids_overflow_and_underflow_of_energies() -> None:
    mel = torch.tensor([[120.0, -120.0]])
    mixed = add_spectrum(mel, mel, 1.0)
    torch.testing.assert_close(mixed, mel + torch.tensor(2.0).log())


def test_a_scale_of_zero_changes_nothing() -> None:
    mel = torch.randn(5, 3)
    assert add_spectrum(mel, torch.randn(7, 3), 0.0) is mel


def test_the_rate_is_realised_and_every_other_utterance_is_as_likely() -> None:
    hook, partners, rate = make(), Counter[tuple[int, int]](), 0.0
    for epoch in range(1000):
        raw = raw_batch(IDS, epoch=epoch)
        for position in range(8):
            partner = hook.partner(position, 8, raw.generator(position))
            partners[position, -1 if partner is None else partner] += 1
        if epoch < 100:
            hook.on_batch(raw)
            rate += raw.metrics["noise/mixed"] / 100
    assert rate == pytest.approx(0.8, abs=3.3 * (0.16 / 800) ** 0.5)
    assert not any(partners[position, position] for position in range(8))
    counts = torch.tensor([[partners[p, q] for q in range(-1, 8) if q != p] for p in range(8)]).double()
    expected = torch.tensor([200.0] + [800 / 7] * 7).double()
    assert float(((counts - expected).square() / expected).sum()) < 94.5  # 0.1 % point of 8 x 7 degrees of freedom


def test_what_is_added_is_what_the_stages_before_left() -> None:
    """With everyone mixed: each result is the sum of two given spectra, none of a sum."""
    given_signals, raw = raw_batch(IDS).signals, raw_batch(IDS)
    make(probability=1.0).on_batch(raw)
    for position, mixed in enumerate(raw.signals):
        sums = [add_spectrum(given_signals[position], given_signals[q], 0.4) for q in range(8) if q != position]
        assert sum(torch.equal(mixed, each) for each in sums) == 1
    assert all(map(torch.equal, given_signals, raw_batch(IDS).signals))


def test_draws_depend_on_seed_epoch_utterance_name_and_unit() -> None:
    together, again = raw_batch(IDS), raw_batch(IDS)
    hook = make()
    hook.on_batch(together)
    hook.on_batch(again)
    assert all(map(torch.equal, together.signals, again.signals))
    for key in ({"epoch": 1}, {"seed": 2}, {"hook": "b"}):
        changed = raw_batch(IDS, **key)
        hook.on_batch(changed)
        assert not all(map(torch.equal, together.signals, changed.signals))


def test_an_utterance_that_is_alone_stays_as_it_is() -> None:
    raw = raw_batch(["u"])
    make(probability=1.0).on_batch(raw)
    assert torch.equal(raw.signals[0], raw_batch(["u"]).signals[0])
    assert raw.metrics == {"noise/mixed": 0.0}


@pytest.mark.parametrize(("epoch", "mixed"), [(0, False), (1, True), (4, True), (5, False)])
def test_it_acts_in_its_epochs_alone_on_mel_energies(epoch: int, mixed: bool) -> None:
    raw = raw_batch(IDS, epoch=epoch)
    make(probability=1.0, from_epoch=1, until_epoch=5).on_batch(raw)
    assert torch.equal(raw.signals[0], raw_batch(IDS).signals[0]) != mixed
    assert (raw.targets, raw.predictor_inputs) == ([[1]] * 8, [[1]] * 8)
    assert SequenceNoise.stage == "mel"
    assert make().lengthens == 0
