"""Runs to the end: units emptied while loading, resuming, precision, weights of another run, stacked features."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from asr.data.batch import Batch
from asr.models.speech_model import LossOutput
from asr.runs.metrics import read_rows
from asr.runs.progress import Progress
from asr.training.hook import Hook
from asr.training.loss_terms import LossTerms
from asr.training.trainer import Trainer
from distributed.learners.world import World

Config = Callable[..., DictConfig]
Make = Callable[..., Trainer]
Fit = Callable[..., None]
Losses = Callable[[Path], list[float]]
STEPS = ("backend=single", "trainer.max_steps=6", "hooks=[]")


def test_a_unit_emptied_while_loading_is_counted_and_harmless(
    small_config: Config, make_trainer: Make, fit: Fit, losses: Losses, tmp_path: Path, tiny_corpus: Path, alone: World
) -> None:
    manifest = tmp_path / "train.jsonl"
    lines = (tiny_corpus / "train.jsonl").read_text().replace('"train-', f'"{tiny_corpus}/train-').splitlines()
    samples = bytearray((tiny_corpus / "train-3.wav").read_bytes())
    manifest.write_text("\n".join(lines))
    torn = tmp_path / "torn.wav"
    torn.write_bytes(samples)
    records = [json.loads(line) for line in lines]
    for record in records:
        record["id"] = Path(record["id"]).name
        if record["id"] == "train-3":
            record["audio_filepath"] = str(torn)
    manifest.write_text("\n".join(map(json.dumps, records)))
    config = small_config(
        *STEPS, "data.on_bad=skip", f"data.train={manifest}", "batch.unit_utterances=1", "trainer.max_steps=10"
    )
    trainer = make_trainer(config, tmp_path / "run", alone)
    # Gone between the screening and its turn: what a header cannot foretell.
    torn.write_bytes(b"")
    fit(trainer)
    rows = read_rows(tmp_path / "run" / "metrics" / "0.jsonl")
    assert rows[-2]["data/skipped"] == 1.0
    assert rows[-2]["samples"] == 40
    assert all(math.isfinite(loss) for loss in losses(tmp_path / "run"))


def test_one_learner_of_asynchronous_gossip_equals_single_bitwise(
    small_config: Config, make_trainer: Make, fit: Fit, losses: Losses, tmp_path: Path, alone: World
) -> None:
    """Also where global batches differ in weight."""
    for backend in ("single", "adpsgd"):
        config = small_config(*STEPS, f"backend={backend}", "batch.unit_utterances=3", "evaluation.sets=[]")
        trainer = make_trainer(config, tmp_path / backend, alone)
        assert len({step.planned_weight for step in trainer.parts.units.steps(Progress())}) > 1
        fit(trainer)
    assert losses(tmp_path / "adpsgd") == losses(tmp_path / "single")


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [("sgd", "constant"), ("adamw", "onecycle"), ("lars", "warmup_anneal"), ("lamb", "noam")],
)
def test_every_optimizer_and_schedule_resumes_bitwise(
    small_config: Config,
    make_trainer: Make,
    fit: Fit,
    losses: Losses,
    stop_after: Callable[[int], Hook],
    tmp_path: Path,
    alone: World,
    optimizer: str,
    schedule: str,
) -> None:
    overrides = (*STEPS[:2], f"optimizer={optimizer}", f"schedule={schedule}", "trainer.checkpoint_every=2")
    config = small_config(*overrides, "evaluation.sets=[]", "hooks=[spec_augment]")
    fit(make_trainer(config, tmp_path / "whole", alone))
    with pytest.raises(KeyboardInterrupt):
        fit(make_trainer(config, tmp_path / "broken", alone, {"stop": stop_after(3)}))
    fit(make_trainer(config, tmp_path / "broken", alone), resume=True)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


def test_bf16_is_close_to_fp32(
    small_config: Config, make_trainer: Make, fit: Fit, losses: Losses, tmp_path: Path, alone: World
) -> None:
    """Of a model without LSTM, which every processor makes in bf16."""
    curves = {}
    for precision in ("fp32", "bf16"):
        config = small_config(
            *STEPS, f"trainer.precision={precision}", "evaluation.sets=[]", "model=conformer_tiny",
            "model/predictor=stateless", "model.encoder.layers=1", "model.encoder.dimension=32",
        )  # fmt: skip
        fit(make_trainer(config, tmp_path / precision, alone))
        curves[precision] = losses(tmp_path / precision)
    assert curves["bf16"] != curves["fp32"]
    assert curves["bf16"] == pytest.approx(curves["fp32"], rel=0.02)


def test_init_from_takes_the_weights_of_another_run(
    small_config: Config, make_trainer: Make, fit: Fit, tmp_path: Path, alone: World
) -> None:
    fit(make_trainer(small_config(*STEPS), tmp_path / "first", alone))
    OmegaConf.save(small_config(*STEPS), tmp_path / "first" / "config.yaml")
    second = make_trainer(small_config(*STEPS, f"init_from={tmp_path / 'first'}"), tmp_path / "second", alone)
    checkpoint, _ = make_trainer(small_config(*STEPS), tmp_path / "first", alone).parts.checkpoints.newest()
    assert checkpoint is not None
    weights: Mapping[str, torch.Tensor] = checkpoint.model_state()
    for name, value in second.parts.run.model.state_dict().items():
        assert torch.equal(value, weights[name])


def test_a_chunked_conformer_trains_on_stacked_features(
    small_config: Config, make_trainer: Make, fit: Fit, losses: Losses, tmp_path: Path, alone: World
) -> None:
    """The dimension follows the features to the model, and the plan counts the frames that the loader brings."""
    shapes: list[tuple[int, ...]] = []

    class Shapes(Hook):
        def on_loss(self, batch: Batch, output: LossOutput, terms: LossTerms) -> None:
            assert output.encoder_states is not None
            shapes.append((batch.features.shape[2], batch.features.shape[1], output.encoder_states.shape[1]))

    config = small_config(
        "backend=single", "trainer.max_steps=2", "trainer.memory_probe=false", "features.deltas=2", "features.stack=2",
        "model=conformer_tiny", "model.encoder.layers=1", "model.encoder.dimension=16", "model.encoder.heads=2",
        "model.encoder.chunk=1", "model.encoder.left_chunks=1", "model.predictor.dimension=16", "model.joiner.dimension=16",
    )  # fmt: skip
    fit(make_trainer(config, tmp_path, alone, {"shapes": Shapes()}))
    assert len(shapes) == 8
    assert all(dimension == 120 and states == -(-frames // 4) for dimension, frames, states in shapes)
    assert max(frames for _, frames, _ in shapes) < 35, "at most 0.6 s: 58 frames, stacked by 2"
    assert all(math.isfinite(loss) for loss in losses(tmp_path))
