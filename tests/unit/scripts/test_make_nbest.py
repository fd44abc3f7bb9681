"""From a trained run to n-best lists to a run that trains with them; what is interrupted goes on, what differs is refused."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from asr.runs.metrics import read_rows
from distributed.errors import UsageError
from scripts.composition.nbest_lists import begin
from scripts.make_nbest import main as make_nbest

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


def test_lists_do_not_depend_on_process_count_or_interruption(
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


HEADER_OF_A = Header(
    format=FORMAT, tokenizer="a", run="/exp/a", checkpoint="step-1", weights=1, search={"beam": 3}, language_models=[],
    hypotheses=3, split="train", utterances=2, corpus=1, shard_utterances=2,
)  # fmt: skip


def test_a_header_is_written_once_and_shards_without_one_are_refused(tmp_path: Path) -> None:
    begin(tmp_path, HEADER_OF_A)
    with pytest.raises(
        UsageError, match=r"^[^\n]*of another hypotheses \(3 there, 4 here\): [^\n]*remove the folder [^\n]*$"
    ):
        begin(tmp_path, replace(HEADER_OF_A, hypotheses=4))  # no shard is there yet, but the others decode
    shard_file(tmp_path, 0).write_text("")
    begin(tmp_path, HEADER_OF_A)
    with pytest.raises(UsageError, match=r"another corpus \(1 there, 2 here\), search.beam \(3 there, 4 here\): "):
        begin(tmp_path, replace(HEADER_OF_A, corpus=2, search={"beam": 4}))
    assert read_header(tmp_path) == HEADER_OF_A
    (tmp_path / HEADER).write_text(json.dumps({"format": FORMAT - 1}))
    with pytest.raises(UsageError, match=r"^[^\n]*of another format than [^\n]*; remove the folder, then write[^\n]*$"):
        begin(tmp_path, HEADER_OF_A)
    (tmp_path / HEADER).unlink()
    with pytest.raises(UsageError, match=r"holds shards without header\.json: choose another out="):
        begin(tmp_path, HEADER_OF_A)


def test_one_of_processes_that_start_from_other_checkpoints_wins(tmp_path: Path) -> None:
    """As where learners start while the run still trains: what is best changes between them."""
    together = threading.Barrier(6)

    def learner(step: int) -> str | None:
        together.wait()
        try:
            begin(tmp_path / "lists", replace(HEADER_OF_A, checkpoint=f"step-{step}", weights=step))
        except UsageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(6) as threads:
        errors = list(threads.map(learner, range(6)))
    winner = read_header(tmp_path / "lists").weights
    assert [step for step, error in enumerate(errors) if error is None] == [winner]
    other = (winner + 1) % 6
    assert f"checkpoint (step-{winner} there, step-{other} here), weights ({winner} there, " in str(errors[other])


def test_lists_of_something_else_are_not_mixed(baseline: Path) -> None:
    make_nbest([f"run={baseline}", *FEW])
    differing = (
        r"hypotheses \(3 there, 2 here\), search.beam \(3 there, 2 here\), search.n_best .*: repeat their command"
    )
    with pytest.raises(UsageError, match=rf"holds lists of another {differing}"):
        make_nbest([f"run={baseline}", *FEW, "hypotheses=2"])
    with pytest.raises(UsageError, match=r"the corpus has no split 'train2'"):
        make_nbest([f"run={baseline}", "split=train2"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["hypotheses=20", "decode.n_best=5"],
            r"^hypotheses=20 decode\.n_best=5: .* set it to 20 or more, or hypotheses=5$",
        ),
        (["decode=greedy"], r"^decode=greedy: make_nbest needs one with beam, n_best; choose decode=beam$"),
        (["decode=ctc_greedy"], r"^decode=ctc_greedy: .* choose decode=beam$"),
    ],
)
def test_searches_that_give_no_lists_or_short_ones_are_refused(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        make_nbest([f"run={tmp_path}", *overrides])


def test_a_search_may_return_more_than_is_kept(random_run: Run) -> None:
    run = random_run("run")
    make_nbest([f"run={run}", *FEW])
    make_nbest([f"run={run}", *FEW, "decode.n_best=5", f"out={run / 'out'}"])
    assert contents(run / "out").keys() == contents(run / "nbest" / "train").keys()
    assert all(
        contents(run / "out")[name] == text
        for name, text in contents(run / "nbest" / "train").items()
        if name != HEADER
    )


def test_lists_of_other_weights_of_the_same_name_are_not_mixed(random_run: Run, random_lm_run: Run) -> None:
    """The run, or the language model, was trained anew in its folder: its path and its checkpoint are called as before."""
    run, lm, others = (
        random_run("run"),
        random_lm_run("lm"),
        [random_run("run2", "seed=2"), random_lm_run("lm2", "seed=2")],
    )
    command = [f"run={run}", *FEW, f"decode.fusion.external={lm}"]
    make_nbest(command)
    shard_file(run / "nbest" / "train", 1).unlink()
    for trained, other, differing in zip((lm, run), others[::-1], ("language_models", "weights"), strict=True):
        (trained / "checkpoints").rename(trained / "earlier")
        (other / "checkpoints").rename(trained / "checkpoints")
        with pytest.raises(UsageError, match=rf"holds lists of another {differing} \([^ ]+ there, [^ ]+ here\): "):
            make_nbest(command)
        (trained / "checkpoints").rename(other / "checkpoints")
        (trained / "earlier").rename(trained / "checkpoints")
    make_nbest(command)
    assert shard_file(run / "nbest" / "train", 1).is_file()
