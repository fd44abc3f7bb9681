"""backend.rate=auto under the trainer: the same layout on all learners and after a resume; another plan's memory loads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from asr.runs.metrics import read_rows
from asr.training.trainer import Trainer
from distributed.learners.world import World
from distributed.schemes.scalecom import ScaleCom
from tests.schemes import SCHEMES

RUN = ("backend=scalecom", "backend.rate=auto", "hooks=[]", "model.encoder.stack=1", "trainer.memory_probe=false")


@pytest.fixture
def fit(
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Callable[..., list[Any]],
    tmp_path: Path,
) -> Callable[..., list[ScaleCom]]:
    """Go on with the run in ``tmp_path`` on two learners; their backends."""

    def run(*overrides: str) -> list[ScaleCom]:
        config = small_config(*RUN, *overrides)

        def learner(world: World) -> ScaleCom:
            trainer = make_trainer(config, tmp_path, world)
            newest, _ = trainer.parts.checkpoints.newest()
            trainer.fit(newest)
            trainer.parts.recorder.close()
            assert isinstance(trainer.backend, ScaleCom)
            return trainer.backend

        return run_learners(2, learner)

    return run


def test_learners_and_a_resume_have_the_same_layout(fit: Callable[..., list[ScaleCom]], tmp_path: Path) -> None:
    one, other = fit("trainer.max_steps=2")
    assert one.segments == other.segments
    assert one.rates_found["joiner.output.weight"] == 50  # an utterance has some 150 cells
    assert one.rates_found["predictor.lstm.weight_hh_l0"] == one.rates_found["predictor.embedding.weight"] == 400
    resumed, _ = fit("trainer.max_steps=4")
    assert resumed.segments == one.segments
    assert [row["global_step"] for row in read_rows(tmp_path / "metrics" / "0.jsonl") if "train/loss" in row] == [
        *range(1, 5)
    ]


def test_a_memory_by_name_loads_into_another_layout(fit: Callable[..., list[ScaleCom]], alone: World) -> None:
    """As after a change of the plan, which may put parameters elsewhere."""
    old, _ = fit("trainer.max_steps=2")
    new = SCHEMES["scalecom"].build(alone, rate="auto", bucket_mb=1)
    new.rate_by_uses = dict.fromkeys(old.rates_found, 400) | {"predictor.embedding.weight": 25}
    new.wrap(old.model)
    assert new.segments != old.segments
    state = old.state_dict()
    new.load_state_dict([state], 0, 1)
    assert any(value.any() for value in state["memory"].values())
    for name, view in new.flat.named_views(new.memory).items():
        assert torch.equal(view, state["memory"][name])
