"""Steps with a non-finite loss or gradient: dumped, skipped by those who must, and fatal when they do not stop."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import nn

from asr.data.batch import Batch, RawBatch
from asr.models.speech_model import LossOutput
from asr.training.bad_steps import TrainingDivergedError
from asr.training.hook import Hook
from asr.training.loss_terms import LossTerms
from asr.training.trainer import Trainer
from distributed.backend import GradientReport
from distributed.learners.world import World

Config = Callable[..., DictConfig]
Make = Callable[..., Trainer]
Fit = Callable[..., None]


class Poison(Hook):
    """Makes the loss of one learner non-finite in some of its steps."""

    stage: ClassVar[Any] = "normalised"

    def __init__(self, victims: set[str]) -> None:
        self.victims = victims

    def on_batch(self, raw: RawBatch) -> None:
        for position, utterance in enumerate(raw.utterance_ids):
            if utterance in self.victims:
                raw.signals[position] = torch.full_like(raw.signals[position], math.nan)


def poisoned(small_config: Config, *overrides: str) -> tuple[DictConfig, set[str]]:
    return small_config("hooks=[]", "loader.cache_gb=0", "trainer.max_steps=6", *overrides), {"train-0"}


@pytest.mark.parametrize("backend", ["allreduce", "dpsgd"])
def test_a_bad_step_is_dumped_and_skipped_by_those_who_must(
    small_config: Config,
    make_trainer: Make,
    fit: Fit,
    run_learners: Callable[..., list[list[tuple[int, bool]]]],
    tmp_path: Path,
    backend: str,
) -> None:
    """All learners in a synchronous scheme, in gossip the one that met it."""
    config, victims = poisoned(small_config, f"backend={backend}", "trainer.max_steps=5", "evaluation.sets=[]")

    class Watch(Hook):
        def __init__(self) -> None:
            self.finite: list[bool] = []

        def on_gradients(self, model: nn.Module, report: GradientReport) -> None:
            self.finite.append(report.finite)

    def learner(world: World) -> list[bool]:
        watch = Watch()
        trainer = make_trainer(config, tmp_path, world, {"poison": Poison(victims), "watch": watch})
        fit(trainer)
        assert all(bool(p.isfinite().all()) for p in trainer.parts.run.model.parameters())
        return watch.finite

    finite = run_learners(2, learner)  # one epoch is 5 steps: each learner's utterances come once
    bad = [finite[0].count(False), finite[1].count(False)]
    assert bad == [1, 1] if backend == "allreduce" else sorted(bad) == [0, 1]
    dumps = sorted((tmp_path / "bad_batches").glob("*.json"))
    assert len(dumps) == sum(bad)
    records = [json.loads(path.read_text()) for path in dumps]
    blamed = [record for record in records if not record["own_loss_finite"]]
    assert len(blamed) == 1
    assert any("train-0" in unit["utterance_ids"] for unit in blamed[0]["units"])
    tensors = load_file(dumps[0].with_suffix(".safetensors"))
    assert {"0.features", "0.targets", "1.features"} <= tensors.keys()


def test_too_many_bad_steps_in_a_row_stop_the_run(
    small_config: Config, make_trainer: Make, fit: Fit, tmp_path: Path, alone: World
) -> None:
    config, _ = poisoned(small_config, "backend=single", "trainer.max_bad_steps=3")

    class Watch(Hook):
        errors: ClassVar[list[BaseException]] = []

        def on_error(self, error: BaseException) -> None:
            self.errors.append(error)

    hook = Watch()
    everything = {f"train-{index}" for index in range(40)}
    trainer = make_trainer(config, tmp_path, alone, {"poison": Poison(everything), "watch": hook})
    with pytest.raises(TrainingDivergedError, match=r"3 steps in a row.*trainer\.max_bad_steps=3.*bad_batches"):
        fit(trainer)
    assert [type(error) for error in hook.errors] == [TrainingDivergedError]
    assert len(list((tmp_path / "bad_batches").glob("*.json"))) == 3


class InfiniteTerm(Hook):
    """Adds to one step's loss a number that is not finite and has no gradient."""

    def on_loss(self, batch: Batch, output: LossOutput, terms: LossTerms) -> None:
        if "train-0" in batch.utterance_ids:
            terms.add("infinite", torch.tensor(math.inf))


def test_a_non_finite_term_without_gradient_is_a_bad_step_too(
    small_config: Config, make_trainer: Make, fit: Fit, tmp_path: Path, alone: World
) -> None:
    config, _ = poisoned(small_config, "backend=single", "trainer.max_steps=5")
    trainer = make_trainer(config, tmp_path, alone, {"infinite": InfiniteTerm()})
    fit(trainer)
    assert trainer.bad_steps.total == 1
    assert all(bool(p.isfinite().all()) for p in trainer.parts.run.model.parameters())
