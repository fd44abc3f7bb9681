"""Models of the configurations, made smaller where a test asks for it, and batches of random speech."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from asr.data.batch import Batch
from asr.models.speech_model import SpeechModel
from scripts.composition.build import build as build_part
from scripts.composition.compose import compose

SMALL = {
    "conformer_tiny": {"encoder.layers": 2, "encoder.dimension": 24, "encoder.subsampling_channels": 4},
    "lstm_tiny": {"encoder.hidden": 12},
    "ctc_conformer_tiny": {"encoder.layers": 2, "encoder.dimension": 24, "encoder.subsampling_channels": 4},
}


@pytest.fixture
def build() -> Callable[..., SpeechModel]:
    """``build(name, small=False, vocabulary_size=29, feature_dimension=80, loss=None, **{"encoder.layers": 2, ...})``."""

    def make(
        name: str,
        small: bool = False,
        vocabulary_size: int = 29,
        feature_dimension: int = 80,
        loss: str | None = None,
        **changes: Any,
    ) -> SpeechModel:
        config = compose("train", [f"model={name}", *([f"model/loss={loss}"] if loss else [])]).model
        if small:
            transducer = {"predictor.dimension": 16, "joiner.dimension": 16} if "joiner" in config else {}
            changes = {**transducer, **SMALL[name], **changes}
        for key, value in changes.items():
            assert OmegaConf.select(config, key, default="?") != "?", key
            OmegaConf.update(config, key, value)
        torch.manual_seed(0)
        model: SpeechModel = build_part(config, vocabulary_size=vocabulary_size, feature_dimension=feature_dimension)
        return model

    return make


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """``make_batch(frames=[..], tokens=[..], vocabulary_size=.., feature_dimension=.., dtype=..)``: seeded noise."""

    def make(
        frames: list[int],
        tokens: list[int],
        vocabulary_size: int = 29,
        feature_dimension: int = 80,
        dtype: torch.dtype = torch.float32,
    ) -> Batch:
        generator = torch.Generator().manual_seed(1)
        count, longest, most = len(frames), max(frames, default=0), max(tokens, default=0)
        features = torch.randn(count, longest, feature_dimension, generator=generator, dtype=dtype)
        targets = torch.randint(1, vocabulary_size, (count, most), generator=generator)
        for row in range(count):
            features[row, frames[row] :] = 0
            targets[row, tokens[row] :] = 0
        ids = [f"u{row}" for row in range(count)]
        lengths, target_lengths = torch.tensor(frames, dtype=torch.int64), torch.tensor(tokens, dtype=torch.int64)
        return Batch(ids, features, lengths, targets, target_lengths, targets.clone(), weight=float(count))

    return make
