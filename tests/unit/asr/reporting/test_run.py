"""Reading run folders: whole ones, young ones, and broken files."""

import json
import math
from pathlib import Path

import pytest

from asr.decoding.results import write_results
from asr.reporting.run import read_run, read_transcripts
from asr.runs.run_folder import Evaluation


def test_a_whole_run(make_run) -> None:
    record = read_run(make_run("demo", learners=3, steps=400))
    assert record.name == "demo"
    assert sorted(record.rows) == [0, 1, 2]
    assert record.learners == 3
    assert record.evaluated_sets() == ["dev"]
    assert [result.title for result in record.results] == ["test · beam8", "test · greedy", "dev · greedy"]
    assert record.results[0].interval == (0.0261, 0.0368)
    assert len(record.results[0].transcripts) == 20
    assert record.results[0].arithmetic == "bf16 on cuda"
    assert record.config["backend._target_"] == "distributed.schemes.dpsgd.DecentralisedSgd"
    assert record.most("samples") == 400 * 32
    assert record.last("train/lr") == pytest.approx(2e-3 * math.sqrt(80 / 400))
    assert record.least("eval/dev/wer") == record.last("eval/dev/wer")


def test_a_folder_that_is_no_run_is_reported_in_one_line(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match=r"is no run folder: it has neither config\.yaml nor metrics") as raised:
            read_run(folder)
        assert "\n" not in str(raised.value)


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    record = read_run(tmp_path)
    assert record.learners == 0
    assert record.results == ()
    assert math.isnan(record.last("train/loss"))
    assert math.isnan(record.most("samples"))


def test_a_learner_that_left_is_not_counted(make_run) -> None:
    folder = make_run(learners=4, steps=400)
    for learner in (2, 3):
        path = folder / "metrics" / f"{learner}.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:10]))
    assert read_run(folder).learners == 2


def test_figures_that_are_missing_or_null_are_nan(make_run) -> None:
    folder = make_run()
    (folder / "eval" / "test" / "wer-greedy.json").write_text(json.dumps({"wer": None, "wer_interval": [0.1, None]}))
    result = next(result for result in read_run(folder).results if result.title == "test · greedy")
    assert math.isnan(result.wer)
    assert math.isnan(result.cer)
    assert result.interval is None
    assert result.arithmetic == "", "as of evaluations that did not record it"


def test_the_files_that_evaluation_writes_are_read_back(tmp_path: Path) -> None:
    references = {"a:\tref=x": "it's “a” <b>", "silence": "", "b": "two words"}
    hypotheses = {"a:\tref=x": "its <b>", "silence": "noise", "b": "two words"}
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    write_results(Evaluation(tmp_path / "eval" / "test", "greedy"), references, hypotheses)
    (result,) = read_run(tmp_path).results
    assert {t.utterance_id: " ".join(t.reference) for t in result.transcripts} == references
    assert {t.utterance_id: " ".join(t.hypothesis) for t in result.transcripts} == hypotheses
    assert result.reference_words == 5
    assert result.wer == pytest.approx(3 / 5)  # a substitution, a deletion, and an insertion into silence


@pytest.mark.parametrize("line", ["nonsense", "a:\tref=['x'", "a:\tref=[__import__('os')]", "a:\tref=3"])
def test_a_broken_recogs_file_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "recogs-greedy.txt"
    path.write_text(f"ok:\tref=['x']\n{line}\n")
    with pytest.raises(ValueError, match=r"recogs-greedy\.txt:2 is no line of a recogs file"):
        read_transcripts(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("summary.json", "{", "not JSON"),
        ("summary.json", "[]", "must hold a JSON object, got list"),
        ("eval/test/wer-greedy.json", "", "not JSON"),
        ("config.yaml", "a: [1", "config.yaml: cannot be read: "),
    ],
)
def test_a_broken_file_is_named(make_run, name: str, content: str, said: str) -> None:
    folder = make_run()
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=said) as raised:
        read_run(folder)
    assert str(folder / name) in str(raised.value)
    assert "\n" not in str(raised.value)
