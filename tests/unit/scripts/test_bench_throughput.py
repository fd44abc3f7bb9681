"""The contenders of the training step do the same work: the loss is that of ours, and lengths are kept apart."""

import math
from dataclasses import replace

import pytest
import torch

from asr.losses.unfused import TorchaudioLoss
from scripts.bench.other_encoders import TorchaudioEncoder, TorchaudioRecipe
from scripts.bench.throughput import FEATURE_DIMENSION, OURS, Case, batch_of, contenders, figures, measure, ours, step
from scripts.composition.compose import compose

CASE = Case("conformer_tiny", "ragged", batch=3, seconds=0.6, labels=2, classes=29)


def test_both_losses_are_of_one_value() -> None:
    model = ours(compose("train", ["model=conformer_tiny", "model.ctc_weight=0"]), CASE).eval()
    exact = step(model, batch_of(CASE))
    model.loss = TorchaudioLoss()
    assert step(model, batch_of(CASE)) == pytest.approx(exact, rel=1e-5)


def test_contenders_have_our_sizes_and_get_gradients_everywhere() -> None:
    batch, models = batch_of(CASE), contenders(CASE)
    assert list(models)[:3] == [OURS, "torchaudio_parts", "torchaudio_recipe"]
    assert isinstance(models["torchaudio_parts"].encoder, TorchaudioEncoder)
    assert isinstance(models["torchaudio_recipe"].encoder, TorchaudioRecipe)
    states = {name: model.encode(batch.features, batch.feature_lengths) for name, model in models.items()}
    for name, model in models.items():
        assert math.isfinite(step(model, batch))
        assert all(each.grad is not None for each in model.parameters()), name
        assert states[name][0].shape == (3, 15, model.encoder.dimension)
    assert torch.equal(states["torchaudio_parts"][1], states[OURS][1])


def test_a_ragged_batch_is_shorter_than_an_even_one() -> None:
    ragged, even = batch_of(CASE), batch_of(replace(CASE, lengths="even"))
    assert even.audio_seconds == pytest.approx(3 * 0.6)
    assert 1.5 * 0.6 < ragged.audio_seconds < even.audio_seconds
    assert ragged.features.shape == even.features.shape == (3, 60, FEATURE_DIMENSION)


def test_figures_are_ratios_to_ours_and_a_share() -> None:
    rows = measure(replace(CASE, lengths="even"), 1)
    found = figures([*rows, *({**row, "case": "other"} for row in rows)])
    for row in rows:
        if row["contender"] != OURS:
            assert found[f"train_step_ratio/{row['contender']}"] == row["seconds"] / rows[0]["seconds"]
            assert f"train_step_ratio/{row['contender']}/other" in found
    assert 0 < found["share_of_peak"] < 1
