"""The typical sample: how often it uses the parameters of the models, counted by hand, and that it leaves no trace."""

import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from asr.data.batch import Unit
from asr.data.plan import BatchPlan
from asr.models.speech_model import SpeechModel
from asr.parts import build
from asr.training.trainer import Trainer
from asr.training.typical import run_typical, typical_batch
from distributed.learners.world import World
from distributed.sparse.uses import count_uses, rate_by_uses
from scripts.composition.compose import compose, options

FRAMES, TOKENS = (90, 400, 123), (5, 2, 30)  # medians 123 and 5
SIZES = {"vocabulary_size": 29, "feature_dimension": 40}
TINY = ("model=conformer_tiny", "model.encoder.layers=1", "model.encoder.dimension=16", "model.encoder.heads=2")


def model_of(*overrides: str) -> SpeechModel:
    model: SpeechModel = build(compose("train", list(overrides)).model, **SIZES)
    return model


@pytest.fixture
def plan() -> BatchPlan:
    """Three utterances, one of which has the median length."""
    return BatchPlan(
        units=1, unit_utterances=4, max_frames=10_000, max_cells=10_000, frame_margin=0.0, target_margin=0.0,
        frames=FRAMES, target_lengths=TOKENS, utterance_ids=["a", "b", "c"], subsampling=4, lengthening=0.0, seed=1,
    )  # fmt: skip


def uses_of(model: SpeechModel, plan: BatchPlan) -> dict[str, float]:
    return count_uses(model, lambda: run_typical(model, plan, SIZES["feature_dimension"]))


@pytest.mark.parametrize("loss", ["exact", "torchaudio"])
def test_encoder_predictor_and_joiner_run_once_per_state_token_and_cell(plan: BatchPlan, loss: str) -> None:
    model = model_of(*TINY, f"model/loss={loss}")
    uses = uses_of(model, plan)
    states, cells = 31, 31 * 6  # ceil(123 / 4), and U + 1 = 6 with the start symbol
    assert uses["encoder.blocks.0.feed_forward_in.expand.weight"] == states
    assert uses["encoder.blocks.0.convolution.depthwise.weight_DK"] == states
    assert uses["encoder.blocks.0.attention.position.weight"] == 2 * states
    assert uses["encoder.subsample.first.weight"] == 62 * 20
    assert uses["encoder.subsample.second.weight"] == 31 * 10
    assert uses["joiner.project_encoder.weight"] == states
    assert uses["joiner.project_predictor.weight"] == 6
    assert uses["joiner.output.weight"] == cells
    assert uses["predictor.embedding.weight"] == pytest.approx(6 / 29)
    recurrent = [count for name, count in uses.items() if name.startswith("predictor.lstm.weight")]
    assert recurrent
    assert set(recurrent) == {6}
    assert rate_by_uses(cells) == 50


def test_an_acoustic_models_sample_is_a_segment_as_in_the_paper(plan: BatchPlan) -> None:
    """The paper compresses SWB300's LSTM over 21 frames 400 times."""
    uses = uses_of(model_of("model=dblstm_4", "model.encoder.layers=1", "model.encoder.hidden=8"), plan)
    weights = {count for name, count in uses.items() if "weight" in name}
    assert weights == {21}
    assert rate_by_uses(21) == 400


def test_a_language_model_is_used_once_per_token_and_for_the_end(
    lm_config: Callable[..., DictConfig], make_trainer: Callable[..., Trainer], tmp_path: Path, alone: World
) -> None:
    """As its plan is built of texts, where no lattice counts their tokens."""
    parts = make_trainer(lm_config(), tmp_path, alone).parts
    parts.recorder.close()
    tokens = statistics.median(parts.dataset[Unit(0, 0, 0, (each,))].targets.shape[1] for each in range(40))
    model = parts.run.model
    uses = count_uses(model, lambda: run_typical(model, parts.plan, feature_dimension=0))
    recurrent = {count for name, count in uses.items() if name.startswith("predictor.lstm.weight")}
    assert recurrent == {round(tokens) + 1} != {1}
    assert uses["output.weight"] == round(tokens) + 1


@pytest.mark.parametrize("model", [name for name in options("model") if "tiny" in name])
def test_every_weight_of_the_small_models_is_used_and_nothing_remains(plan: BatchPlan, model: str) -> None:
    built = model_of(f"model={model}")
    next(built.children()).eval()
    modes = [module.training for module in built.modules()]
    generator = torch.get_rng_state()
    uses = uses_of(built, plan)
    unused = [name for name, p in built.named_parameters() if p.dim() >= 2 and not uses[name]]
    assert not unused
    assert [module.training for module in built.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_model_in_double_precision_is_used_as_often(plan: BatchPlan) -> None:
    assert uses_of(model_of("model=lstm_tiny").double(), plan) == uses_of(model_of("model=lstm_tiny"), plan)


def test_the_median_sample(plan: BatchPlan) -> None:
    batch = typical_batch(model_of(*TINY), plan, 40)
    assert batch.features.shape == (1, 123, 40)
    assert batch.targets.shape == batch.predictor_inputs.shape == (1, 5)
