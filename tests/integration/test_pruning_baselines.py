"""What a baseline of pruning has made is trained on, and made smaller again: iterative magnitude, and factors."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from asr.models.speech_model import SpeechModel
from asr.parts import build
from asr.runs.checkpoint import model_folder_of
from asr.runs.model_folder import load_model, save_model
from asr.training.trainer import Trainer
from distributed.learners.world import World
from scripts.composition.compose import compose
from scripts.compress import main as compress
from tests.models import save_random_model

RUN = ("backend=single", "hooks=[]", "evaluation.sets=[]", "trainer.max_steps=1", "trainer.memory_probe=false", "launch.matmul=mkl")  # fmt: skip


@pytest.fixture
def random_folder(small_config: Callable[..., DictConfig], tmp_path: Path) -> Path:
    """The model folder of a model with random weights, half of whose encoder's units were removed."""
    (tmp_path / "made").mkdir()
    whole = load_model(save_random_model(small_config(*RUN, "seed=2"), tmp_path / "made", tmp_path / "whole"))
    apply = build(compose("compress", ["run=none", "passes=magnitude"]).passes)
    save_model(apply(whole, lambda split: []), tmp_path / "half")
    return tmp_path / "half"


def encoder_size(model: SpeechModel) -> int:
    assert hasattr(model, "encoder")
    return sum(each.numel() for each in model.encoder.parameters())


@pytest.mark.parametrize(("name", "rounds"), [("magnitude", 2), ("low_rank", 1)])
def test_a_model_is_made_smaller_trained_on_and_made_smaller_again(
    name: str, rounds: int, small_config: Callable[..., DictConfig], finished_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = finished_run(small_config(*RUN), tmp_path / "dense")
    sizes = [encoder_size(load_model(model_folder_of(run, "run")).model)]
    for place in range(rounds):
        compress([f"run={run}", f"pass={name}", "pass.sparsity=0.2", "checkpoint=last", "name=small"])
        small = run / "export" / "small"
        run = finished_run(small_config(*RUN, f"init_from={small}", f"model_of={small}"), tmp_path / f"round{place}")
        trained = load_model(model_folder_of(run, "run"))
        sizes.append(encoder_size(trained.model))
        assert 0.75 * sizes[-2] < sizes[-1] <= 0.8 * sizes[-2]
        assert len(trained.description.transforms) == (name == "low_rank")


def test_the_sizes_of_a_pruned_model_are_trained_from_nothing(
    small_config: Callable[..., DictConfig], make_trainer: Callable[..., Trainer], random_folder: Path, alone: World
) -> None:
    half = load_model(random_folder).model
    trainer = make_trainer(small_config(*RUN, f"model_of={random_folder}"), random_folder.parent / "scratch", alone)
    trainer.parts.recorder.close()
    made = trainer.parts.run.model.state_dict()
    assert {name: each.shape for name, each in made.items()} == {
        name: each.shape for name, each in half.state_dict().items()
    }
    assert not any(each.equal(half.state_dict()[name]) for name, each in made.items() if each.dim() > 1)
