"""ScaleCom under the trainer, overlapped or in bf16: accumulation, a resume that is bitwise the whole run, clipping refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from asr.runs.metrics import read_rows
from asr.training.trainer import Trainer
from distributed.learners.world import World

RUN = (
    "backend=scalecom", "backend.rate=20", "hooks=[]",
    "model.encoder.dropout=0", "model.predictor.dropout=0", "model.predictor.embedding_dropout=0",
)  # fmt: skip
OVERLAPPED = ("backend.overlap=true", "backend.bucket_mb=0.004", "trainer.max_norm=null")
BF16 = ("trainer.precision=bf16", "backend.values=bfloat16", "trainer.max_norm=10")


@pytest.mark.parametrize("way", [OVERLAPPED, BF16], ids=["overlapped", "bf16"])
def test_a_resumed_run_is_the_whole_run(
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Callable[..., list[Any]],
    tmp_path: Path,
    alone: World,
    way: tuple[str, ...],
) -> None:
    """Two units a step, one checkpoint; a hook that measures on the way disturbs nothing. Dropout would share generators."""

    def learner(world: World, folder: Path, config: DictConfig, weights: dict[str, Any]) -> dict[str, Tensor]:
        """Its weights and its memory."""
        trainer = make_trainer(config, folder, world)
        newest, _ = trainer.parts.checkpoints.newest()
        if newest is None:
            trainer.parts.run.model.load_state_dict(weights)
        trainer.fit(newest)
        trainer.parts.recorder.close()
        end = {f"memory of {name}": value for name, value in trainer.backend.state_dict()["memory"].items()}
        return end | dict(trainer.parts.run.model.state_dict())

    options = ("trainer.evaluate_every=2", "trainer.checkpoint_every=2")
    first = make_trainer(small_config("backend=single", "hooks=[]"), tmp_path / "weights", alone)
    weights = {name: value.clone() for name, value in first.parts.run.model.state_dict().items()}
    first.parts.recorder.close()
    ends: dict[str, list[dict[str, Tensor]]] = {}
    for name, marks in (("whole", (4,)), ("resumed", (2, 4))):
        for steps in marks:
            hooks = ["+hooks=[selection_diagnostics]"] if name == "resumed" else []
            config = small_config(*RUN, *way, *options, *hooks, f"trainer.max_steps={steps}", "schedule=constant")
            ends[name] = run_learners(
                2, lambda world, name=name, config=config: learner(world, tmp_path / name, config, weights)
            )
    rows = {name: read_rows(tmp_path / name / "metrics" / "0.jsonl") for name in ("whole", "resumed")}
    losses = {name: [row["train/loss"] for row in found if "train/loss" in row] for name, found in rows.items()}
    assert losses["whole"] == losses["resumed"]
    assert len(losses["whole"]) == 4
    assert losses["whole"][-1] < losses["whole"][0]
    for whole, resumed in zip(ends["whole"], ends["resumed"], strict=True):
        assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
    assert any(value.any() for key, value in ends["whole"][0].items() if key.startswith("memory"))


def test_clipping_is_refused_before_a_run(
    small_config: Callable[..., DictConfig], make_trainer: Callable[..., Trainer], tmp_path: Path, alone: World
) -> None:
    with pytest.raises(ValueError, match=r"backend\.overlap=true .* trainer\.max_norm=50 "):
        make_trainer(small_config(*RUN, *OVERLAPPED, "trainer.max_norm=50"), tmp_path, alone)
