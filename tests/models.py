"""Models that were never trained, as model folders."""

from pathlib import Path

import torch
from omegaconf import DictConfig

from asr.parts import build
from asr.runs.model_folder import LoadedModel, save_model
from distributed.learners.world import World
from scripts.composition.build import build_material, build_model, describe, fit_tokenizer

UNTRAINED = ("backend=single", "evaluation.sets=[]", "trainer.memory_probe=false")  # settings of runs that take no step


def save_random_model(config: DictConfig, work: Path, folder: Path) -> Path:
    """Write the model folder ``folder`` with the initial weights of a configuration; the tokenizer is fitted into ``work``."""
    fit_tokenizer(config, work, World(0, 1, 0, 1, torch.device("cpu"), None))
    material = build_material(config, work)
    description = describe(config, material, {}, None)
    model = build_model(config, material).eval()
    save_model(LoadedModel(model, build(config.features), material.tokenizer, description, {}), folder)
    return folder
