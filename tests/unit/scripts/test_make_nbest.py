"""From a trained run to n-best lists to a run that trains with them; what is interrupted goes on, what differs is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from asr.data import pipeline
from asr.data.audio import BadUtterance
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.data.nbest import FORMAT, HEADER, Header, NBestError, read_header, read_nbest, shard_file, truth_of
from asr.data.tokenizer import load_tokenizer
from asr.training.metrics import read_rows
from scripts.make_nbest import begin
from scripts.make_nbest import main as make_nbest
from scripts.startup import UsageError

Run = Callable[..., Path]
FEW = ("hypotheses=3", "shard_utterances=16", "unit_utterances=4")


@pytest.fixture
def train(
    small_config: Callable[..., DictConfig], finished_run: Callable[..., Path], tmp_path: Path
) -> Callable[..., Path]:
    """``train(name, *overrides)``: the folder of a finished run."""
    settings = ("backend=single", "evaluation.sets=[]")
    return lambda name, *overrides: finished_run(small_config(*settings, *overrides), tmp_path / name)


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


def test_lists_of_other_utterances_of_the_same_names_are_refused(
    baseline: Path, train: Callable[..., Path], tiny_corpus: Path, tmp_path: Path
) -> None:
    """As of another data.seed or data.held_out: corpora made here name their utterances by number."""
    make_nbest([f"run={baseline}", *FEW])
    utterances = read_manifest(tiny_corpus / "train.jsonl")
    swapped = [replace(other, id=one.id) for one, other in zip(utterances, utterances[::-1], strict=True)]
    write_manifest(tmp_path / "other.jsonl", swapped)
    with pytest.raises(NBestError, match=r"its list of train-0 is of another utterance of that name"):
        train(
            "other", f"data.train={tmp_path / 'other.jsonl'}", "hooks=[nbest_label_smoothing]",
            f"hooks.nbest_label_smoothing.lists={baseline / 'nbest' / 'train'}",
            "hooks.nbest_label_smoothing.hypotheses=3", "trainer.max_steps=2",
        )  # fmt: skip


def test_language_models_take_part_and_are_named_in_the_header(random_run: Run, random_lm_run: Run) -> None:
    run, lm = random_run("run"), random_lm_run("lm")
    fusion = (f"decode.fusion.external={lm}", "decode.fusion.external_weight=2")
    for name, overrides in (("plain", ()), ("fused", fusion)):
        make_nbest([f"run={run}", *FEW, f"out={run / name}", *overrides])
    header = read_header(run / "fused")
    assert header.search["fusion"]["external"] == str(lm.resolve())
    assert read_header(run / "plain").search["fusion"]["external"] is None
    assert (run / "plain" / "00000.jsonl").read_text() != (run / "fused" / "00000.jsonl").read_text()
    with pytest.raises(UsageError, match=r"^decode.fusion.external=none: "):
        make_nbest([f"run={run}", *FEW, f"out={run / 'none'}", "decode.fusion.external=none"])
    assert not (run / "none").exists(), "refused before anything is written"


def test_what_cannot_be_decoded_has_an_empty_list(
    random_run: Run, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Only its samples tell, so that the plan of a run still holds it."""
    run = random_run("run", "data.on_bad=skip")
    read = pipeline.read_audio

    def broken(utterance: Utterance, *arguments: Any, **options: Any) -> Any:
        if utterance.id == "train-7":
            raise BadUtterance(utterance.id, utterance.audio_filepath, "breaks off")
        return read(utterance, *arguments, **options)

    monkeypatch.setattr(pipeline, "read_audio", broken)
    make_nbest([f"run={run}", *FEW])
    assert "breaks off (utterance train-7)" in caplog.text
    _, lists = read_nbest(run / "nbest" / "train", load_tokenizer(run / "tokenizer"))
    utterances = {each.id: each for each in read_manifest(tiny_corpus / "train.jsonl")}
    assert lists.rows.keys() == utterances.keys()
    assert [name for name in utterances if not lists.lengths(name, best=3)] == ["train-7"]
    assert all(lists.truth(name) == truth_of(each) for name, each in utterances.items())


def test_a_header_without_shards_is_written_anew_and_shards_without_one_are_refused(tmp_path: Path) -> None:
    header = Header(
        format=FORMAT, tokenizer="a", run="/exp/a", checkpoint="step-1", search={}, hypotheses=3, split="train",
        utterances=2, corpus=1, shard_utterances=2,
    )  # fmt: skip
    begin(tmp_path, header)
    begin(tmp_path, replace(header, hypotheses=4))
    assert read_header(tmp_path).hypotheses == 4
    shard_file(tmp_path, 0).write_text("")
    begin(tmp_path, replace(header, hypotheses=4))
    with pytest.raises(UsageError, match=r"^[^\n]*holds lists of another hypotheses, corpus: [^\n]*$"):
        begin(tmp_path, replace(header, corpus=2))
    (tmp_path / HEADER).unlink()
    with pytest.raises(UsageError, match=r"holds shards without header\.json: choose another out="):
        begin(tmp_path, header)


def test_lists_of_something_else_are_not_mixed(baseline: Path) -> None:
    make_nbest([f"run={baseline}", *FEW])
    with pytest.raises(UsageError, match=r"holds lists of another search, hypotheses: repeat their command"):
        make_nbest([f"run={baseline}", *FEW, "hypotheses=2"])
    with pytest.raises(UsageError, match=r"the corpus has no split 'train2'"):
        make_nbest([f"run={baseline}", "split=train2"])
