"""Hooks in the loop: the order of their calls, hooks that only watch, that replace and own modules, that regularise."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from asr.data.batch import Batch
from asr.hooks.activation_checkpointing import ActivationCheckpointing
from asr.hooks.diagnostics import Diagnostics
from asr.models.speech_model import LossOutput, SpeechModel
from asr.runs.progress import Progress
from asr.training.hook import Hook, ParameterGroup, Run
from asr.training.loss_terms import LossTerms
from asr.training.trainer import Trainer
from distributed.backend import GradientReport
from distributed.learners.world import World

Config = Callable[..., DictConfig]
Make = Callable[..., Trainer]
Fit = Callable[..., None]
Losses = Callable[[Path], list[float]]
STEPS = ("backend=single", "trainer.max_steps=6", "hooks=[]")


class Recording(Hook):
    """Notes every call."""

    changes_training: ClassVar[bool] = False

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_model(self, model: SpeechModel) -> SpeechModel:
        self.calls.append("on_model")
        return model

    def on_parameter_groups(self, model: SpeechModel) -> list[ParameterGroup]:
        self.calls.append("on_parameter_groups")
        return []

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        self.calls.append("on_fit_start")

    def on_step_start(self, progress: Progress) -> None:
        self.calls.append(f"on_step_start {progress.step}")

    def on_loss(self, batch: Batch, output: LossOutput, terms: LossTerms) -> None:
        self.calls.append(f"on_loss last={terms.last}")

    def on_gradients(self, model: nn.Module, report: GradientReport) -> None:
        self.calls.append("on_gradients")

    def on_step_end(self, progress: Progress, metrics: dict[str, float]) -> None:
        self.calls.append(f"on_step_end {progress.step}")

    def on_evaluation(self, progress: Progress, metrics: dict[str, float]) -> None:
        self.calls.append("on_evaluation " + " ".join(sorted(metrics)))

    def on_checkpoint(self, progress: Progress) -> None:
        self.calls.append("on_checkpoint")

    def on_fit_end(self, progress: Progress) -> None:
        self.calls.append("on_fit_end")

    def on_error(self, error: BaseException) -> None:
        self.calls.append(f"on_error {type(error).__name__}")

    def close(self) -> None:
        self.calls.append("close")


def test_hooks_run_where_the_pseudo_code_says(
    small_config: Config, make_trainer: Make, fit: Fit, tmp_path: Path, alone: World
) -> None:
    hook = Recording()
    fit(
        make_trainer(
            small_config(*STEPS, "trainer.max_steps=1", "trainer.memory_probe=false"),
            tmp_path,
            alone,
            {"recording": hook},
        )
    )
    assert hook.calls == [
        "on_model", "on_parameter_groups", "on_fit_start",
        "on_step_start 0", *["on_loss last=False"] * 3, "on_loss last=True", "on_gradients", "on_step_end 1",
        "on_evaluation eval/dev/loss eval/dev/wer", "on_checkpoint", "on_fit_end", "close",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "hook",
    [Recording(), Diagnostics(every=1, probe_batches=1), ActivationCheckpointing(every=1)],
    ids=lambda hook: type(hook).__name__,
)
def test_a_hook_that_promises_not_to_change_training_does_not(
    small_config: Config, make_trainer: Make, fit: Fit, losses: Losses, tmp_path: Path, alone: World, hook: Hook
) -> None:
    assert not hook.changes_training
    config = small_config(*STEPS, "trainer.evaluate_every=2")
    fit(make_trainer(config, tmp_path / "without", alone))
    fit(make_trainer(config, tmp_path / "with", alone, {"watching": hook}))
    assert losses(tmp_path / "with") == losses(tmp_path / "without")
    assert len(losses(tmp_path / "with")) == 6


class Replacement(Hook):
    """Replaces the joiner's output layer by one whose weight is scaled by a learned number, in a group of its own."""

    class Scaled(nn.Linear):
        def __init__(self, original: nn.Linear) -> None:
            super().__init__(original.in_features, original.out_features)
            self.load_state_dict(original.state_dict())
            self.log_scale = nn.Parameter(torch.zeros(()))

    def on_model(self, model: SpeechModel) -> SpeechModel:
        scaled = self.Scaled(model.joiner.output)
        nn.utils.parametrize.register_parametrization(scaled, "weight", _Scale(scaled.log_scale))
        model.joiner.output = scaled
        return model

    def on_parameter_groups(self, model: SpeechModel) -> list[ParameterGroup]:
        return [ParameterGroup(("joiner.output.log_scale",), {"lr": 0.5}, clip=False, scale_lr=False, schedule=False)]


class _Scale(nn.Module):
    def __init__(self, log_scale: nn.Parameter) -> None:
        super().__init__()
        self.scale = [log_scale]  # in a list: registered once, with the layer

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.scale[0].exp()


def test_a_replaced_module_trains_under_its_own_rules_and_resumes(
    small_config: Config,
    make_trainer: Make,
    fit: Fit,
    losses: Losses,
    stop_after: Callable[[int], Hook],
    tmp_path: Path,
    alone: World,
) -> None:
    whole = make_trainer(small_config(*STEPS), tmp_path / "whole", alone, {"scale": Replacement()})
    groups = {group["name"]: group for group in whole.parts.optimizer.param_groups}
    scale = whole.parts.run.model.joiner.output.log_scale
    assert isinstance(scale, nn.Parameter)
    assert groups["scale"]["params"] == [scale]
    assert not groups["scale"]["clip"]
    fit(whole)
    assert groups["scale"]["lr"] == 0.5, "schedule=False keeps the rate"
    assert groups["decayed"]["lr"] < 2e-3
    assert abs(scale.item()) > 0.1, "it learns, at its own rate"

    config = small_config(*STEPS, "trainer.checkpoint_every=2")
    broken = make_trainer(config, tmp_path / "broken", alone, {"scale": Replacement(), "stop": stop_after(4)})
    with pytest.raises(KeyboardInterrupt):
        fit(broken)
    fit(make_trainer(config, tmp_path / "broken", alone, {"scale": Replacement()}), resume=True)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


class WeightPenalty(Hook):
    """A regulariser as a per-step term: half the sum of squares of the encoder's parameters."""

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self.model: nn.Module | None = None

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        self.model = run.model

    def on_loss(self, batch: Batch, output: LossOutput, terms: LossTerms) -> None:
        if terms.last:
            assert self.model is not None
            squares = sum(parameter.square().sum() for parameter in self.model.parameters())
            terms.add_per_step("penalty", 0.5 * self.strength * squares)


@pytest.mark.parametrize("learners", [1, 2, 4])
def test_a_per_step_term_counts_once_whatever_the_batch_and_the_learners(
    small_config: Config,
    make_trainer: Make,
    fit: Fit,
    run_learners: Callable[..., list[dict[str, torch.Tensor]]],
    tmp_path: Path,
    learners: int,
) -> None:
    """Its gradient is strength x w, to be added once to the mean gradient of the batch."""
    exact = ("model.encoder.dropout=0", "model.predictor.dropout=0", "model.predictor.embedding_dropout=0")
    config = small_config(
        *exact, "hooks=[]", "trainer.max_steps=1", "optimizer=sgd", "optimizer.lr=0.01", "optimizer.momentum=0",
        "optimizer.nesterov=false", "optimizer.weight_decay=0", "schedule=constant", "trainer.max_norm=null",
        "evaluation.sets=[]", "trainer.precision=fp64",
    )  # fmt: skip
    initial: dict[str, torch.Tensor] = {}
    first = threading.Lock()
    updates: dict[float, list[dict[str, torch.Tensor]]] = {}
    for strength in (0.0, 1.0):

        def learner(world: World, strength: float = strength) -> dict[str, torch.Tensor]:
            folder = tmp_path / f"{strength}"
            trainer = make_trainer(config, folder, world, {"penalty": WeightPenalty(strength)})
            with first:  # learners are threads, which share torch's generator: the weights of one are those of all
                if not initial:
                    initial.update({k: v.clone() for k, v in trainer.parts.run.model.state_dict().items()})
            trainer.parts.run.model.load_state_dict(initial)
            fit(trainer)
            return {name: value.clone() for name, value in trainer.parts.run.model.state_dict().items()}

        updates[strength] = run_learners(learners, learner)
    for without, with_penalty in zip(updates[0.0], updates[1.0], strict=True):
        for name, start in initial.items():
            torch.testing.assert_close(with_penalty[name] - without[name], -0.01 * start, rtol=1e-9, atol=1e-12)
