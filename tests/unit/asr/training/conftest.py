"""Training to the end in tests, and the curve that was written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from asr.runs.metrics import read_rows
from asr.training.trainer import Trainer


@pytest.fixture
def fit() -> Callable[..., None]:
    """``fit(trainer, resume=False)``: trains to the end, from the newest checkpoint if told so."""

    def train(trainer: Trainer, resume: bool = False) -> None:
        checkpoint, _ = trainer.parts.checkpoints.newest() if resume else (None, [])
        try:
            trainer.fit(checkpoint)
        finally:
            trainer.parts.recorder.close()

    return train


@pytest.fixture
def losses() -> Callable[[Path], list[float]]:
    """``losses(folder)``: the training loss of each step that the first learner wrote down."""

    def read(folder: Path) -> list[float]:
        rows = read_rows(folder / "metrics" / "0.jsonl")
        return [row["train/loss"] for row in rows if "train/loss" in row]

    return read
