"""Every backend as the configuration makes it, under the trainer: it trains, evaluates, writes its figures and resumes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from asr.runs.metrics import read_rows
from asr.training.trainer import Trainer
from distributed.learners.launch import World
from tests.schemes import SCHEMES, words


@pytest.mark.parametrize("backend", words(lambda each: each.several))
def test_two_learners_train_evaluate_and_go_on(
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Callable[..., list[None]],
    tmp_path: Path,
    backend: str,
) -> None:
    scheme = SCHEMES[backend]
    for max_steps in (2, 4):
        config = small_config(*scheme.overrides(2, topology="random_pairwise"), f"trainer.max_steps={max_steps}")

        def learner(world: World, config: DictConfig = config) -> None:
            trainer = make_trainer(config, tmp_path, world)
            newest, _ = trainer.parts.checkpoints.newest()
            trainer.fit(newest)
            trainer.parts.recorder.close()

        run_learners(2, learner)
    rows = read_rows(tmp_path / "metrics" / "1.jsonl")
    steps = [row for row in rows if "train/loss" in row]
    evaluations = [row for row in rows if "eval/dev/wer" in row]
    assert [row["global_step"] for row in evaluations] == [2, 4]
    if not scheme.lockstep:  # who takes how many of the 16 units in steps of two is up to the learners
        taken = [read_rows(tmp_path / "metrics" / f"{learner}.jsonl")[-1]["step"] for learner in range(2)]
        assert sum(taken) == 8
    else:
        assert [row["global_step"] for row in steps] == [1, 2, 3, 4]
    if scheme.communicates_every_step:
        assert all(row["comm/rounds_per_step"] == 1 for row in steps)
        assert all(row["comm/bytes_sent"] - row["comm/control_bytes_sent"] > 1000 for row in steps)
    assert all((row.get("comm/compression_ratio", 1) > 1) == scheme.compresses for row in steps)
    for row in evaluations:
        apart = {key: row[key] for key in row if key.startswith("consensus/")}
        if scheme.synchronous:
            assert not apart
        else:
            assert apart.keys() == {"consensus/distance", "consensus/relative_distance"}
            assert all(value > 0 for value in apart.values())


@pytest.mark.parametrize(("word", "compression"), [("dpsgd", "int4"), ("delay_by_one", "topk"), ("adpsgd", "int8")])
def test_replicas_of_compressed_gossip_go_through_checkpoints(
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Callable[..., list[None]],
    tmp_path: Path,
    word: str,
    compression: str,
) -> None:
    """Trained in one go and in two: the same losses bitwise, but where learners go at their own pace."""

    def train(folder: Path, max_steps: int) -> None:
        options = SCHEMES[word].overrides(2, compression=compression)
        config = small_config(*options, f"trainer.max_steps={max_steps}")

        def learner(world: World) -> None:
            trainer = make_trainer(config, folder, world)
            trainer.fit(trainer.parts.checkpoints.newest()[0])
            trainer.parts.recorder.close()

        run_learners(2, learner)

    train(tmp_path / "whole", 4)
    train(tmp_path / "cut", 2)
    train(tmp_path / "cut", 4)
    whole, cut = (
        [row["train/loss"] for row in read_rows(tmp_path / name / "metrics" / "1.jsonl") if "train/loss" in row]
        for name in ("whole", "cut")
    )
    rows = [row for row in read_rows(tmp_path / "cut" / "metrics" / "1.jsonl") if "comm/compression_ratio" in row]
    assert rows[-1]["comm/compression_ratio"] > 1
    assert (whole == cut) or not SCHEMES[word].lockstep
