"""Runs that were never trained, for what reads run folders and model folders; torch's table of ONNX operators for exports."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from asr.models.transducer import Transducer
from asr.runs.checkpoint import Retention
from asr.runs.checkpoint_folder import CheckpointFolder
from asr.runs.model_folder import ModelParts
from asr.runs.progress import Progress
from distributed.learners.world import World
from scripts.composition.build import build_material, build_model, describe, fit_tokenizer
from scripts.composition.compose import compose
from scripts.composition.run_start import settings_of


@pytest.fixture(scope="session")
def one_registry() -> Iterator[None]:
    """The table is made once: reading the sources of its 500 functions takes a second, and an export writes three networks."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture
def save_random_run(tmp_path: Path, alone: World) -> Callable[[str, DictConfig], Path]:
    """Make a run folder whose only checkpoint holds random weights, far from uniform."""

    def save(name: str, config: DictConfig) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        fit_tokenizer(config, folder, alone)
        OmegaConf.save(config, folder / "config.yaml")
        material = build_material(config, folder)
        model = build_model(config, material)
        with torch.no_grad():
            for weight in (model.joiner if isinstance(model, Transducer) else model).parameters():
                weight *= 4  # labels that follow the input
        state = model.state_dict()
        parts = ModelParts(describe(config, material, {}, None), material.tokenizer)
        retention = Retention(keep_last=1, keep_best=1)
        checkpoints = CheckpointFolder(
            folder / "checkpoints", alone, retention, "Single", 1, parts, settings_of(config)
        )
        checkpoints.save(Progress(global_step=1, samples=1), {"model": state}, state, 0.5)
        return folder

    return save


@pytest.fixture
def random_run(
    save_random_run: Callable[[str, DictConfig], Path], small_config: Callable[..., DictConfig]
) -> Callable[..., Path]:
    """A recogniser's run folder, of a name and with overrides."""
    mkl = "launch.matmul=mkl"  # no choice that outlasts the test
    return lambda name, *overrides: save_random_run(name, small_config(mkl, *overrides))


@pytest.fixture
def random_lm_run(
    save_random_run: Callable[[str, DictConfig], Path], small_lm_overrides: Callable[..., list[str]]
) -> Callable[..., Path]:
    """A language model's run folder, of a name and with overrides."""
    return lambda name, *overrides: save_random_run(name, compose("train_lm", small_lm_overrides(*overrides)))


@pytest.fixture
def random_model_folder(random_run: Callable[..., Path]) -> Path:
    """The model folder of a small recogniser's checkpoint."""
    (folder,) = (random_run("random") / "checkpoints").glob("step-*")
    return folder
