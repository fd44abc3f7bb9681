"""What a baseline of pruning has made is trained on, and made smaller again: iterative magnitude, and factors."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from asr.models.speech_model import SpeechModel
from asr.runs.checkpoint import model_folder_of
from asr.runs.model_folder import load_model
from scripts.compress import main as compress

RUN = ("backend=single", "hooks=[]", "evaluation.sets=[]", "trainer.max_steps=1", "trainer.memory_probe=false", "launch.matmul=mkl")  # fmt: skip


def encoder_size(model: SpeechModel) -> int:
    assert hasattr(model, "encoder")
    return sum(each.numel() for each in model.encoder.parameters())  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("name", ["magnitude", "low_rank"])
def test_a_model_is_made_smaller_trained_on_and_made_smaller_again(
    name: str, small_config: Callable[..., DictConfig], finished_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = finished_run(small_config(*RUN), tmp_path / "dense")
    sizes = [encoder_size(load_model(model_folder_of(run, "run")).model)]
    for round_ in (1, 2):
        compress([f"run={run}", f"pass={name}", "pass.sparsity=0.2", "checkpoint=last", "name=small"])
        small = run / "export" / "small"
        run = finished_run(small_config(*RUN, f"init_from={small}", f"model_of={small}"), tmp_path / f"round{round_}")
        trained = load_model(model_folder_of(run, "run"))
        sizes.append(encoder_size(trained.model))
        assert 0.75 * sizes[-2] < sizes[-1] <= 0.8 * sizes[-2]
        assert len(trained.description.transforms) == (round_ if name == "low_rank" else 0)


def test_the_sizes_of_a_pruned_model_are_trained_from_nothing(
    small_config: Callable[..., DictConfig], finished_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = finished_run(small_config(*RUN), tmp_path / "dense")
    compress([f"run={run}", "pass=magnitude", "pass.sparsity=0.5", "checkpoint=last", "name=half"])
    half = load_model(run / "export" / "half").model
    scratch = finished_run(small_config(*RUN, f"model_of={run / 'export' / 'half'}"), tmp_path / "scratch")
    made = load_model(model_folder_of(scratch, "run")).model
    assert {name: each.shape for name, each in made.state_dict().items()} == {
        name: each.shape for name, each in half.state_dict().items()
    }
    assert not any(each.equal(half.state_dict()[name]) for name, each in made.state_dict().items() if each.dim() > 1)
