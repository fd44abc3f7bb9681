"""The scales of the pruned loss over the first steps, also after a resume."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from asr.hooks.pruned_warmup import ramp
from asr.losses.pruned import PrunedTransducerLoss
from asr.models.speech_model import SpeechModel
from asr.runs.metrics import read_rows
from asr.runs.progress import Progress
from asr.training.hook import Hook
from asr.training.trainer import Trainer
from distributed.learners.world import World

Config = Callable[..., DictConfig]
Make = Callable[..., Trainer]
PRUNED = ("model/loss=pruned", "model.loss.prune_range=3")
WARM = ("hooks=[pruned_warmup]", "hooks.pruned_warmup.steps=4")
RUN = ("backend=single", "trainer.max_steps=6", "evaluation.sets=[]", "trainer.checkpoint_every=2")


class Watch(Hook):
    """Notes the scales of each step, and interrupts one."""

    loss: PrunedTransducerLoss

    def __init__(self, stop: int = 99) -> None:
        self.scales: list[tuple[float, float]] = []
        self.stop = stop

    def on_model(self, model: SpeechModel) -> SpeechModel:
        assert isinstance(model.loss, PrunedTransducerLoss)
        self.loss = model.loss
        return model

    def on_step_end(self, progress: Progress, metrics: dict[str, float]) -> None:
        self.scales.append((self.loss.simple_scale, self.loss.pruned_scale))
        if len(self.scales) == self.stop:
            raise KeyboardInterrupt


def losses(folder: Path) -> list[float]:
    return [row["train/loss"] for row in read_rows(folder / "metrics" / "0.jsonl") if "train/loss" in row]


def fit(trainer: Trainer, resume: bool = False) -> None:
    checkpoint, _ = trainer.parts.checkpoints.newest() if resume else (None, [])
    try:
        trainer.fit(checkpoint)
    finally:
        trainer.parts.recorder.close()


def test_a_ramp_ends() -> None:
    assert [ramp(1.0, 0.5, step, 4) for step in (0, 2, 4, 400)] == [1.0, 0.75, 0.5, 0.5]


def test_scales_go_to_those_of_the_loss_and_a_resume_goes_on(
    small_config: Config, make_trainer: Make, tmp_path: Path, alone: World
) -> None:
    config = small_config(*PRUNED, *WARM, *RUN)
    watch = Watch()
    fit(make_trainer(config, tmp_path / "whole", alone, {"watch": watch}))
    simple, pruned = zip(*watch.scales, strict=True)
    assert simple == pytest.approx([1.0, 0.875, 0.75, 0.625, 0.5, 0.5])
    assert pruned == pytest.approx([0.1, 0.325, 0.55, 0.775, 1.0, 1.0])
    with pytest.raises(KeyboardInterrupt):
        fit(make_trainer(config, tmp_path / "broken", alone, {"watch": Watch(stop=3)}))
    resumed = Watch()
    fit(make_trainer(config, tmp_path / "broken", alone, {"watch": resumed}), resume=True)
    assert resumed.scales == watch.scales[-len(resumed.scales) :]
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


def test_without_the_hook_the_scales_are_constant(
    small_config: Config, make_trainer: Make, tmp_path: Path, alone: World
) -> None:
    watch = Watch()
    fit(make_trainer(small_config(*PRUNED, "hooks=[]", *RUN), tmp_path, alone, {"watch": watch}))
    assert set(watch.scales) == {(0.5, 1.0)}


def test_another_loss_is_refused(small_config: Config, make_trainer: Make, tmp_path: Path, alone: World) -> None:
    with pytest.raises(ValueError, match="set model/loss=pruned"):
        make_trainer(small_config(*WARM, *RUN), tmp_path, alone)
