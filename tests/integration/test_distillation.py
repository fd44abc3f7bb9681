"""Runs with the hook layerwise_distillation: under every backend, on any number of learners, and what is in their folders."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor

from asr.models.auxiliary import auxiliaries_alone
from asr.runs.checkpoint import AUXILIARIES, list_checkpoints
from asr.runs.metrics import read_rows
from asr.runs.model_folder import load_model
from asr.runs.run_folder import RunFolder
from asr.training.trainer import Trainer
from distributed.learners.world import World
from tests.models import save_random_model
from tests.schemes import SCHEMES, long_unless_often

KEY = "hooks.layerwise_distillation"
RUN = (
    "hooks=[layerwise_distillation]", "evaluation.sets=[]", "trainer.memory_probe=false", "trainer.checkpoint_every=2",
    f"{KEY}.transducer_weight=1", f"{KEY}.ctc_weight=1",
)  # fmt: skip
MAPS = "auxiliary.layerwise_distillation.maps.0.weight"
TERMS = ("layer_distillation", "ctc_distillation", "transducer_distillation")


@pytest.fixture
def distilled(small_config: Callable[..., DictConfig], tmp_path: Path) -> Callable[..., DictConfig]:
    """``distilled(*overrides)``: the configuration of a run whose teacher has other weights and more cells."""
    made = small_config("backend=single", "seed=2", "model.encoder.hidden=20")
    (tmp_path / "made").mkdir()
    folder = save_random_model(made, tmp_path / "made", tmp_path / "teacher")
    return lambda *overrides: small_config(*RUN, f"{KEY}.teacher={folder}", *overrides)


@pytest.mark.parametrize("word", long_unless_often(SCHEMES))
def test_maps_train_under_every_backend_and_are_in_no_model_folder(
    word: str,
    distilled: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Callable[..., list[Any]],
    tmp_path: Path,
) -> None:
    learners = 2 if SCHEMES[word].several else 1
    config = distilled(*SCHEMES[word].overrides(learners), "trainer.max_steps=2")

    def learner(world: World) -> tuple[Tensor, Mapping[str, Tensor]]:
        trainer = make_trainer(config, tmp_path / "run", world)
        parameter = dict(trainer.parts.run.model.named_parameters())[MAPS]
        begun = parameter.detach().clone()
        trainer.fit(None)
        trainer.parts.recorder.close()
        return begun, {name: each.clone() for name, each in trainer.parts.run.model.state_dict().items()}

    found = run_learners(learners, learner)
    assert all(not torch.equal(begun, ended[MAPS]) for begun, ended in found)
    if SCHEMES[word].synchronous:
        assert all(torch.equal(ended[name], found[0][1][name]) for _, ended in found for name in ended)
    *_, checkpoint = list_checkpoints(RunFolder(tmp_path / "run").checkpoints)[0]
    saved = load_file(checkpoint.folder / AUXILIARIES)
    torch.testing.assert_close(saved[MAPS], sum(ended[MAPS] for _, ended in found) / learners, rtol=1e-5, atol=1e-6)
    assert auxiliaries_alone(saved).keys() == {MAPS}, "no teacher"
    own = [name for name in found[0][1] if not name.startswith("auxiliary.")]
    assert list(load_model(checkpoint.folder).model.state_dict()) == own
    rows = [row for row in read_rows(tmp_path / "run" / "metrics" / "0.jsonl") if "train/loss" in row]
    assert rows
    assert all(row[f"train/{name}"] > 0 for row in rows for name in TERMS)


def test_two_learners_train_as_one_that_accumulates(
    distilled: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Callable[..., list[Any]],
    one_start: Callable[[Trainer], None],
    tmp_path: Path,
) -> None:
    config = distilled(
        "backend=allreduce", "trainer.precision=fp64", "trainer.max_steps=3", "model.encoder.dropout=0",
        "model.predictor.dropout=0", "model.predictor.embedding_dropout=0",
    )  # fmt: skip
    weights = {}
    for learners in (1, 2):

        def learner(world: World, folder: Path = tmp_path / str(learners)) -> Mapping[str, Tensor]:
            trainer = make_trainer(config, folder, world)
            one_start(trainer)
            trainer.fit(None)
            trainer.parts.recorder.close()
            return {name: each.clone() for name, each in trainer.parts.run.model.state_dict().items()}

        weights[learners] = run_learners(learners, learner)[0]
    assert MAPS in weights[1]
    for name, value in weights[1].items():
        torch.testing.assert_close(weights[2][name], value, rtol=1e-9, atol=1e-9)
