"""What encoders cost: parameters, operations, processor time on noise, all of them in turn."""

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from asr.models.speech_model import Recogniser
from asr.runs.model_folder import load_model
from asr.training.precision import choose_matmul, flush_denormals
from compression.pruning.costs import Extent, operations

TEN_SECONDS = Extent(frames=1000)


def encoder_costs(folders: Mapping[str, Path], rounds: int = 7) -> dict[str, dict[str, float]]:
    """Number of parameters, operations and milliseconds of the encoder of each model folder on ten seconds, one thread."""
    flush_denormals()
    torch.set_num_threads(1)
    choose_matmul("auto")
    models: dict[str, Recogniser] = {}
    features = 0
    for name, folder in folders.items():
        loaded = load_model(folder, "weights")
        assert isinstance(loaded.model, Recogniser)
        assert loaded.features is not None
        models[name], features = loaded.model.eval(), loaded.features.dimension
    measured = seconds(models, TEN_SECONDS, features, rounds)
    return {
        name: {
            "parameters": float(encoder_parameters(model)),
            "flops": float(operations(model, [], "encoder", TEN_SECONDS)({})),
            "milliseconds": 1000 * measured[name],
        }
        for name, model in models.items()
    }


def encoder_parameters(model: torch.nn.Module) -> int:
    """Number of parameters of the encoder."""
    return sum(each.numel() for name, each in model.named_parameters() if name.startswith("encoder."))


def seconds(models: Mapping[Any, torch.nn.Module], extent: Extent, features: int, rounds: int) -> dict[Any, float]:
    """Processor time of each model's encoder over noise, all in turn, after a round that is not counted."""
    features_BTF, lengths_B = torch.randn(1, extent.frames, features), torch.tensor([extent.frames])
    taken: dict[Any, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for round_ in range(rounds + 1):
            for name, model in models.items():
                assert isinstance(model, Recogniser)
                begun = time.process_time()
                model.encode(features_BTF, lengths_B)
                if round_:
                    taken[name].append(time.process_time() - begun)
    return {name: statistics.median(each) for name, each in taken.items()}
