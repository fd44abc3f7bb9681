"""From a trained run to n-best lists to a run that trains with them; what is interrupted goes on, what differs is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from asr.data.nbest import HEADER, NBestError, read_nbest
from asr.data.tokenizer import load_tokenizer
from asr.training.metrics import read_rows
from asr.training.trainer import Trainer
from distributed.launch import World
from scripts.make_nbest import main as make_nbest
from scripts.startup import UsageError

FEW = ("hypotheses=3", "shard_utterances=16", "unit_utterances=4")


@pytest.fixture
def train(
    small_config: Callable[..., DictConfig], make_trainer: Callable[..., Trainer], tmp_path: Path, alone: World
) -> Callable[..., Path]:
    """``train(name, *overrides)``: the folder of a finished run."""

    def run(name: str, *overrides: str) -> Path:
        config, folder = small_config("backend=single", "evaluation.sets=[]", *overrides), tmp_path / name
        trainer = make_trainer(config, folder, alone)
        OmegaConf.save(config, folder / "config.yaml")
        try:
            trainer.fit(None)
        finally:
            trainer.parts.recorder.close()
        return folder

    return run


@pytest.fixture
def baseline(train: Callable[..., Path]) -> Path:
    """A run of ten steps, which writes one letter or another."""
    return train("baseline", "trainer.max_steps=10", "optimizer.lr=0.01", "hooks=[]")


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_lists_are_the_same_in_one_call_in_several_processes_and_after_an_interruption(
    baseline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    make_nbest([f"run={baseline}", *FEW])
    assert "3 shards written, 0 of 3 were there" in capsys.readouterr().out
    lists = baseline / "nbest" / "train"
    whole = contents(lists)
    assert set(whole) == {HEADER, "00000.jsonl", "00001.jsonl", "00002.jsonl"}
    rows = [json.loads(line) for name in sorted(whole) if name != HEADER for line in whole[name].splitlines()]
    assert {row["id"] for row in rows} == {f"train-{index}" for index in range(40)}
    for row in rows:
        assert 1 <= len(row["hypotheses"]) == len(row["scores"]) <= 3
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert len(set(map(tuple, row["hypotheses"]))) == len(row["hypotheses"])
    header, read = read_nbest(lists, load_tokenizer(baseline / "tokenizer"))
    assert (header.hypotheses, header.run, header.search["beam"]) == (3, str(baseline), 3)
    assert len(read.rows) == 40

    (lists / "00001.jsonl").unlink()  # as where a call was interrupted
    make_nbest([f"run={baseline}", *FEW])
    assert "1 shards written, 2 of 3 were there" in capsys.readouterr().out
    assert contents(lists) == whole

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for rank, written in (("1", 1), ("0", 2)):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        make_nbest([f"run={baseline}", *FEW, f"out={tmp_path / 'shared'}"])
        assert f"{written} shards written" in capsys.readouterr().out
    assert contents(tmp_path / "shared") == whole


def test_a_run_trains_with_the_lists_of_another(baseline: Path, train: Callable[..., Path]) -> None:
    make_nbest([f"run={baseline}", *FEW])
    smoothing = (
        "hooks=[nbest_label_smoothing]", f"hooks.nbest_label_smoothing.lists={baseline / 'nbest' / 'train'}",
        "hooks.nbest_label_smoothing.hypotheses=3", "hooks.nbest_label_smoothing.max_lengthening=5",
        "trainer.max_steps=2", "hooks.nbest_label_smoothing.epsilon=1",
    )  # fmt: skip
    run = train("smoothed", *smoothing)
    rows = read_rows(run / "metrics" / "0.jsonl")
    assert rows[0]["nbest_label_smoothing/epsilon"] > 0
    with pytest.raises(NBestError, match="tokens of another tokenizer"):
        train("other", *smoothing, "tokenizer.alphabet=' ehgnopsty'")


def test_lists_of_something_else_are_not_mixed(baseline: Path) -> None:
    make_nbest([f"run={baseline}", *FEW])
    with pytest.raises(UsageError, match=r"holds lists of another search, hypotheses: repeat their command"):
        make_nbest([f"run={baseline}", *FEW, "hypotheses=2"])
    with pytest.raises(UsageError, match=r"the corpus has no split 'train2'"):
        make_nbest([f"run={baseline}", "split=train2"])
