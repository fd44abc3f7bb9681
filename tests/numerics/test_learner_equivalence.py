"""One learner with batch B, two with B/2, four with B/4: the same loss curve, since the plan does not know them."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from asr.runs.metrics import read_rows
from asr.training.trainer import Trainer
from distributed.learners.world import World

STEPS = 20
EXACT = (
    "model.encoder.dropout=0", "model.predictor.dropout=0", "model.predictor.embedding_dropout=0",
    f"trainer.max_steps={STEPS}", "evaluation.sets=[]",
)  # fmt: skip


Curve = Callable[[DictConfig, int], list[tuple[float, float]]]


@pytest.fixture
def curve(make_trainer: Callable[..., Trainer], run_learners: Callable[..., list[None]], tmp_path: Path) -> Curve:
    """``curve(config, learners)``: loss and gradient norm of every step of a run, from the same weights each time."""
    # Learners are threads here and share torch's generator: the weights that it gave the first one serve them all.
    initial: dict[str, torch.Tensor] = {}

    def of_run(config: DictConfig, learners: int) -> list[tuple[float, float]]:
        folder = tmp_path / str(learners)

        def learner(world: World) -> None:
            trainer = make_trainer(config, folder, world)
            if not initial:
                initial.update(copy.deepcopy(trainer.parts.run.model.state_dict()))
            trainer.parts.run.model.load_state_dict(initial)
            trainer.fit(None)
            trainer.parts.recorder.close()

        run_learners(learners, learner)
        rows = read_rows(folder / "metrics" / "0.jsonl")
        return [(row["train/loss"], row["train/grad_norm"]) for row in rows if "train/loss" in row]

    return of_run


def check_same(one: list[tuple[float, float]], *others: list[tuple[float, float]], tolerance: float) -> None:
    """Fail unless the first curve falls by a fifth and the others are the same."""
    assert len(one) == STEPS
    first, last = sum(loss for loss, _ in one[:5]), sum(loss for loss, _ in one[-5:])  # an epoch each
    assert last < 0.8 * first, "nothing is learned: the comparison would be empty"
    for other in others:
        for (loss, norm), (other_loss, other_norm) in zip(one, other, strict=True):
            assert other_loss == pytest.approx(loss, rel=tolerance)
            assert other_norm == pytest.approx(norm, rel=100 * tolerance)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp64", 1e-9), ("fp32", 1e-4)])
@pytest.mark.parametrize("model", ["lstm_tiny", "conformer_tiny"])
def test_the_loss_curve_does_not_depend_on_the_number_of_learners(
    small_config: Callable[..., DictConfig], curve: Curve, model: str, precision: str, tolerance: float
) -> None:
    size = {
        "lstm_tiny": ["model.encoder.layers=1", "model.encoder.hidden=16"],
        "conformer_tiny": [
            "model.encoder.layers=1",
            "model.encoder.dimension=16",
            "model.encoder.subsampling_channels=4",
        ],
    }[model]
    config = small_config(f"model={model}", *size, f"trainer.precision={precision}", *EXACT)
    check_same(curve(config, 1), curve(config, 2), curve(config, 4), tolerance=tolerance)


def test_nor_does_that_of_a_language_model(lm_config: Callable[..., DictConfig], curve: Curve) -> None:
    without = [each for each in EXACT if "encoder" not in each]
    learning = ("backend=allreduce", "trainer.precision=fp64", "schedule=constant", "optimizer.lr=0.02")
    config = lm_config(*learning, *without)
    check_same(curve(config, 1), curve(config, 2), tolerance=1e-9)
