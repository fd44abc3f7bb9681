"""Runs with the hook quantization_health: the same weights with it, and under gossip figures of the consensus model."""

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
    "trainer.max_steps=4", "trainer.evaluate_every=2", "trainer.memory_probe=false", "evaluation.sets=[dev]",
    "model.encoder.dropout=0", "model.predictor.dropout=0", "model.predictor.embedding_dropout=0",
)  # fmt: skip
HOOK = ("hooks=[quantization_health]", "hooks.quantization_health.batches=99")  # all of dev


@pytest.mark.parametrize("backend", ["allreduce", "dpsgd"])
def test_two_learners_have_the_figures_of_the_consensus_and_the_same_weights_with_it(
    backend: str,
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Callable[..., list[Any]],
    tmp_path: Path,
) -> None:
    initial: dict[str, Tensor] = {}  # of all learners, which as threads share torch's generator

    def weights(name: str, *hooks: str) -> list[dict[str, Tensor]]:
        config = small_config(f"backend={backend}", *RUN, *hooks)

        def learner(world: World) -> dict[str, Tensor]:
            trainer = make_trainer(config, tmp_path / name, world)
            model = trainer.parts.run.model
            if not initial:
                initial.update({key: each.clone() for key, each in model.state_dict().items()})
            model.load_state_dict(initial)
            trainer.fit(None)
            trainer.parts.recorder.close()
            return {key: each.clone() for key, each in model.state_dict().items()}

        found: list[dict[str, Tensor]] = run_learners(2, learner)
        return found

    without, with_it = weights("without", "hooks=[]"), weights("with", *HOOK)
    for one, other in zip(without, with_it, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    figures = []
    for rank in range(2):
        rows = [row for row in read_rows(tmp_path / "with" / "metrics" / f"{rank}.jsonl") if "eval/dev/loss" in row]
        assert len(rows) == 2
        assert all(
            row["quantization_health/fp32_loss"] == pytest.approx(row["eval/dev/loss"], rel=1e-5) for row in rows
        )
        figures.append([{key: row[key] for key in row if key.startswith("quantization_health/")} for row in rows])
    assert figures[0] == figures[1]
    assert len(figures[0][0]) == 5
