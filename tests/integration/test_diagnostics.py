"""Small runs with diagnostics: the loss curve is bitwise the same as without, and learners agree about the figures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from asr.hooks.diagnostics import Diagnostics
from asr.runs.metrics import read_rows
from asr.training.trainer import Trainer
from distributed.learners.world import World

Config = Callable[..., DictConfig]
Make = Callable[..., Trainer]

KEYS = {f"diagnostics/{name}" for name in ("alpha_e", "delta", "delta_s", "delta_2", "sigma_w2")}
RUN = (
    "trainer.max_steps=6", "trainer.evaluate_every=2", "hooks=[spec_augment]", "hooks.spec_augment.time_width=3",
    "evaluation.unit_utterances=2",
)  # fmt: skip
NO_DROPOUT = ("model.encoder.dropout=0", "model.predictor.dropout=0", "model.predictor.embedding_dropout=0")


def rows_of(folder: Path, learner: int, key: str) -> list[dict[str, Any]]:
    return [row for row in read_rows(folder / "metrics" / f"{learner}.jsonl") if key in row]


def fit(trainer: Trainer, initial: dict[str, Tensor]) -> None:
    model = trainer.parts.run.model
    if initial:
        model.load_state_dict(initial)
    try:
        trainer.fit(None)
    finally:
        trainer.parts.recorder.close()


def test_a_run_of_one_learner_is_bitwise_the_same_with_it(
    small_config: Config, make_trainer: Make, tmp_path: Path, alone: World
) -> None:
    """With dropout, masks, decoding and a checkpoint after each measurement."""
    config = small_config("backend=single", *RUN, "trainer.checkpoint_every=2", "model.encoder.dropout=0.3")
    fit(make_trainer(config, tmp_path / "without", alone), {})
    hook = Diagnostics(every=1, probe_batches=2)
    fit(make_trainer(config, tmp_path / "with", alone, {"diagnostics": hook}), {})
    curves = [[row["train/loss"] for row in rows_of(tmp_path / name, 0, "train/loss")] for name in ("with", "without")]
    assert curves[0] == curves[1]
    assert len(curves[0]) == 6
    measured = rows_of(tmp_path / "with", 0, "diagnostics/alpha_e")
    assert len(measured) == 3
    assert all(
        row.keys() >= KEYS and row["diagnostics/delta_2"] == row["diagnostics/sigma_w2"] == 0 for row in measured
    )
    assert [row["data/units"] for row in rows_of(tmp_path / "with", 0, "train/loss")] == [4, 8, 12, 16, 20, 24]


@pytest.mark.parametrize("backend", ["allreduce", "dpsgd", "hierarchical"])
def test_runs_of_two_learners_are_bitwise_the_same_with_it(
    small_config: Config,
    make_trainer: Make,
    run_learners: Callable[..., list[Any]],
    tmp_path: Path,
    backend: str,
) -> None:
    """Without dropout: learners are threads here, which share torch's generator."""
    config = small_config(f"backend={backend}", *RUN, *NO_DROPOUT)
    initial = make_trainer(
        small_config("backend=single", *RUN), tmp_path / "first", World(0, 1, 0, 1, torch.device("cpu"), None)
    )
    weights = {name: value.clone() for name, value in initial.parts.run.model.state_dict().items()}
    initial.parts.recorder.close()
    for name in ("without", "with"):

        def learner(world: World, name: str = name) -> None:
            hooks = {"diagnostics": Diagnostics(every=1, probe_batches=2)} if name == "with" else {}
            fit(make_trainer(config, tmp_path / name, world, hooks), weights)

        run_learners(2, learner)
    for rank in range(2):
        with_it, without = (
            [row["train/loss"] for row in rows_of(tmp_path / name, rank, "train/loss")] for name in ("with", "without")
        )
        assert with_it == without
        assert len(with_it) == 6
    own, other = (rows_of(tmp_path / "with", rank, "diagnostics/alpha_e") for rank in range(2))
    assert [[row[key] for key in sorted(KEYS)] for row in own] == [[row[key] for key in sorted(KEYS)] for row in other]
    together = backend in ("allreduce", "hierarchical")  # two threads of one host are one group
    assert all((row["diagnostics/sigma_w2"] == 0) == together for row in own)


def test_asynchronous_learners_agree_about_the_figures(
    small_config: Config, make_trainer: Make, run_learners: Callable[..., list[Any]], tmp_path: Path
) -> None:
    config = small_config("backend=adpsgd", *RUN, *NO_DROPOUT)

    def learner(world: World) -> None:
        fit(make_trainer(config, tmp_path, world, {"diagnostics": Diagnostics(every=1, probe_batches=2)}), {})

    run_learners(2, learner)
    own, other = (rows_of(tmp_path, rank, "diagnostics/alpha_e") for rank in range(2))
    assert len(own) == 3
    assert [[row[key] for key in sorted(KEYS)] for row in own] == [[row[key] for key in sorted(KEYS)] for row in other]
    assert own[-1]["data/units"] + other[-1]["data/units"] == 24
