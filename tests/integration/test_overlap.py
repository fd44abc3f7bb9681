"""backend.overlap=true under the trainer: accumulation, a resume that is bitwise the whole run, clipping refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from asr.training.metrics import read_rows
from asr.training.trainer import Trainer
from distributed.launch import World

RUN = (
    "backend=scalecom", "backend.rate=20", "backend.overlap=true", "backend.bucket_mb=0.004", "hooks=[]",
    "trainer.max_norm=null", "model.encoder.dropout=0", "model.predictor.dropout=0", "model.predictor.embedding_dropout=0",
)  # fmt: skip


def test_a_resumed_run_is_the_whole_run(
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Callable[..., list[Any]],
    tmp_path: Path,
    alone: World,
) -> None:
    """Two units a step, one checkpoint; a hook that measures on the way disturbs nothing. Dropout would share generators."""

    def learner(world: World, folder: Path, config: DictConfig, weights: dict[str, Any]) -> None:
        trainer = make_trainer(config, folder, world)
        newest, _ = trainer.parts.checkpoints.newest()
        if newest is None:
            trainer.parts.run.model.load_state_dict(weights)
        trainer.fit(newest)
        trainer.parts.recorder.close()

    options = ("trainer.evaluate_every=2", "trainer.checkpoint_every=2")
    first = make_trainer(small_config("backend=single", "hooks=[]"), tmp_path / "weights", alone)
    weights = {name: value.clone() for name, value in first.parts.run.model.state_dict().items()}
    first.parts.recorder.close()
    for name, marks in (("whole", (4,)), ("resumed", (2, 4))):
        for steps in marks:
            hooks = ["+hooks=[selection_diagnostics]"] if name == "resumed" else []
            config = small_config(*RUN, *options, *hooks, f"trainer.max_steps={steps}", "schedule=constant")
            run_learners(2, lambda world, name=name, config=config: learner(world, tmp_path / name, config, weights))
    rows = {name: read_rows(tmp_path / name / "metrics" / "0.jsonl") for name in ("whole", "resumed")}
    losses = {name: [row["train/loss"] for row in found if "train/loss" in row] for name, found in rows.items()}
    assert losses["whole"] == losses["resumed"]
    assert len(losses["whole"]) == 4
    assert losses["whole"][-1] < losses["whole"][0]


def test_clipping_is_refused_before_a_run(
    small_config: Callable[..., DictConfig], make_trainer: Callable[..., Trainer], tmp_path: Path, alone: World
) -> None:
    with pytest.raises(ValueError, match=r"backend\.overlap=true .* trainer\.max_norm=50 "):
        make_trainer(small_config(*RUN, "trainer.max_norm=50"), tmp_path, alone)
