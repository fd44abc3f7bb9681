"""The judge of the campaign of faults sees what it is there for: each promise is broken once here, by hand."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from tests.chaos.campaign import KINDS, Row, table
from tests.chaos.ground import Tried
from tests.chaos.injector import flipped
from tests.chaos.oracle import check_checkpoints, check_finished, check_printed, intact
from tests.chaos.trial import EVERY, KEPT, STEPS, BrokenPromiseError, Ended, Trial

DONE = Ended([0], ["done\n"], [], 1.0)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run of the tests lies once it is made."""
    return tmp_path_factory.mktemp("chaos")


@pytest.fixture
def trial(
    small_config: Callable[..., DictConfig], finished_run: Callable[..., Path], kept: Path, tmp_path: Path
) -> Trial:
    """A run of one learner that has come to its end."""
    made = Trial(kept / "made", kept, "single", 1)
    if not made.run.exists():
        made.run.parent.mkdir(parents=True)
        config = small_config(
            "name=run", "backend=single", "batch.units=1", "batch.unit_utterances=2", f"trainer.max_steps={STEPS}",
            f"trainer.checkpoint_every={EVERY}", f"checkpoint.keep_last={KEPT}", "launch.device=cpu",
        )  # fmt: skip
        finished_run(config, made.run)
    shutil.copytree(made.folder, tmp_path / "own")
    return Trial(tmp_path / "own", kept, "single", 1)


def final(trial: Trial) -> Path:
    return trial.run / "checkpoints" / f"step-{STEPS:08d}"


def test_a_run_that_keeps_its_promises_passes(trial: Trial) -> None:
    weights = (final(trial) / "model.safetensors").read_bytes()
    check_finished(trial, DONE, weights)
    assert len(intact(trial)) >= KEPT


def test_other_weights_are_seen(trial: Trial) -> None:
    with pytest.raises(BrokenPromiseError, match="the weights differ"):
        check_finished(trial, DONE, b"others")


def test_a_unit_too_few_is_seen(trial: Trial) -> None:
    path = trial.run / "metrics" / "0.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[-1]["data/units"] -= 1
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(BrokenPromiseError, match="43 units were processed, 44 were planned"):
        check_finished(trial, DONE, None)


def test_an_end_that_did_not_come_is_seen(trial: Trial) -> None:
    with pytest.raises(BrokenPromiseError, match="the same command does not go on"):
        check_finished(trial, Ended([2], [""], [], 1.0), None)


def test_a_good_checkpoint_that_is_gone_is_seen(trial: Trial) -> None:
    before = intact(trial)
    shutil.rmtree(final(trial))
    with pytest.raises(BrokenPromiseError, match=f"good checkpoint {final(trial).name} is lost"):
        check_checkpoints(trial, before)


def test_a_damaged_checkpoint_is_seen(trial: Trial) -> None:
    before = intact(trial)
    weights = final(trial) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BrokenPromiseError, match="no good"):
        check_checkpoints(trial, before)


def test_checkpoints_that_were_not_written_are_seen(trial: Trial) -> None:
    for name in sorted(intact(trial))[-4:]:
        shutil.rmtree(trial.run / "checkpoints" / name)
    with pytest.raises(BrokenPromiseError, match="step 44 was reached, the newest checkpoint is of step"):
        check_checkpoints(trial, ())


@pytest.mark.parametrize("printed", ["a\nTraceback (most recent call last):\n", "terminate called after throwing\n"])
def test_a_traceback_is_seen(printed: str) -> None:
    check_printed(["error on learner 1: learner 0 has ended\n"])
    with pytest.raises(BrokenPromiseError, match="a traceback"):
        check_printed(["", printed])


@pytest.mark.parametrize(("bit", "becomes"), [(31, -1.5), (22, 1.0), (30, math.inf), (None, math.nan)])
def test_one_number_of_all_changes(bit: int | None, becomes: float) -> None:
    values = torch.full((2, 3), 1.5)
    flipped(values, 4, bit)
    assert torch.equal(values.view(-1)[[0, 1, 2, 3, 5]], torch.full((5,), 1.5))
    if bit == 30:
        assert not math.isfinite(values[1, 1])  # exponent of all ones
    else:
        torch.testing.assert_close(values[1, 1], torch.tensor(becomes), equal_nan=True)


def test_the_table_counts_faults_and_readers() -> None:
    rows = {kind: Row() for kind in KINDS}
    rows["kill"].add(Tried("ended", 0.5, 3))
    rows["kill"].add(Tried("ended", 0.3))
    rows["read kaldi"].add(Tried("read or refused in a line", None, 100))
    rows["read metrics"].add(Tried("read or refused in a line", None, 50))
    lines = table(rows).splitlines()
    assert "| kill | 4 | 4 ended | 0.5 |" in lines
    assert "| bad input | 150 | 150 read or refused in a line |  |" in lines
