"""What encoders cost: parameters, operations, processor time on noise, all of them in turn, and memory."""

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
from scripts.bench.memory import peak_extra_bytes

TEN_SECONDS = Extent(frames=1000)


def encoder_costs(folders: Mapping[str, Path], rounds: int = 7) -> dict[str, dict[str, float]]:
    """Of the encoder of each model folder on ten seconds: parameters, operations, milliseconds of one thread, peak bytes, weights included."""
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
            "peak_bytes": float(peak_bytes(model, features)),
        }
        for name, model in models.items()
    }


def encoder_parameters(model: torch.nn.Module) -> int:
    """Number of parameters of the encoder."""
    return sum(each.numel() for name, each in model.named_parameters() if name.startswith("encoder."))


def peak_bytes(model: Recogniser, features: int) -> int:
    """The encoder's weights, and the rise of a process' memory while it reads ten seconds."""

    def encode(frames: int) -> None:
        with torch.inference_mode():
            model.encode(torch.randn(1, frames, features), torch.tensor([frames]))

    weights = sum(each.nbytes for name, each in model.named_parameters() if name.startswith("encoder."))
    return weights + peak_extra_bytes(lambda: encode(TEN_SECONDS.frames), lambda: encode(TEN_SECONDS.frames // 10))


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
