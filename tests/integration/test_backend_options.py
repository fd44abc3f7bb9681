"""Every backend as the configuration makes it, under the trainer: it trains, evaluates, writes its figures and resumes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from asr.runs.metrics import read_rows
from asr.training.trainer import Trainer
from distributed.learners.world import World
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


@pytest.mark.parametrize(
    ("word", "compression"),
    [
        ("dpsgd", "int4"),
        *(pytest.param(*each, marks=pytest.mark.long) for each in (("delay_by_one", "topk"), ("adpsgd", "int8"))),
    ],
)
def test_replicas_of_compressed_gossip_go_through_checkpoints(launcher: Any, word: str, compression: str) -> None:
    """The same losses bitwise, but where learners go at their own pace, after a return to a checkpoint half way."""
    run = ["name=cut", *SCHEMES[word].overrides(2, compression=compression), "trainer.max_steps=4"]
    losses = []
    for _ in range(2):
        launcher.train(2, *run, "trainer.checkpoint_every=2")
        rows = launcher.rows("cut", 1)
        losses.append([row["train/loss"] for row in rows if "train/loss" in row])
        newest = max((launcher.folder / "exp" / "cut" / "checkpoints").glob("step-*"))
        shutil.rmtree(newest)
    assert len(losses[0]) == 4 or not SCHEMES[word].lockstep
    assert losses[0] == losses[1] or not SCHEMES[word].lockstep
    written = read_rows(launcher.folder / "exp" / "cut" / "metrics" / "1.jsonl")
    assert max(row.get("comm/compression_ratio", 0) for row in written) > 1
