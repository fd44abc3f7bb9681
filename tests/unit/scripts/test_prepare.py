"""Corpora are examined and tokenizers trained as a user would, on trees of a second."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data.tokenizer import load_tokenizer
from asr.parts import build
from distributed.errors import UsageError
from scripts import prepare, train_tokenizer
from scripts.composition.compose import compose
from scripts.composition.preparation import duration

TEXTS = ("one two", "two three", "three one two one")


@pytest.fixture
def tree(tmp_path: Path) -> list[str]:
    """Overrides for three utterances of LibriSpeech's layout and a line without audio."""
    chapter = tmp_path / "LibriSpeech/train-clean-100/103/1240"
    chapter.mkdir(parents=True)
    lines = ""
    for number, text in enumerate(TEXTS):
        soundfile.write(chapter / f"103-1240-{number:04d}.flac", np.zeros(8000), 16000)
        lines += f"103-1240-{number:04d} {text.upper()}\n"
    (chapter / "103-1240.trans.txt").write_text(lines + "103-1240-0009 NINE\n")
    folders = [f"data.root={tmp_path / 'LibriSpeech'}", f"data.cache={tmp_path / 'cache'}"]
    return ["data=librispeech", *folders, "data.train=[train-clean-100]", "data.dev=[]", "data.test=[]"]


@pytest.fixture
def manifest(tmp_path: Path) -> list[str]:
    """Overrides for a manifest of one usable utterance and one whose audio is missing."""
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 16000)
    lines = [{"audio_filepath": f"{name}.wav", "duration": 0.5, "text": "one"} for name in "ab"]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ["data=manifests", f"data.root={tmp_path}", "data.train=train.jsonl"]


def test_a_report_says_what_is_there_and_what_was_refused(
    tree: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare.main([*tree, "data.on_bad=skip", "tokenizer=characters"])
    printed = capsys.readouterr().out
    assert "train: 3 utterances, 0.03 min, 1 speaker; 0.50 to 0.50 s, median 0.50; 22.0 characters/s" in printed
    assert "22.0 tokens/s; refused 1" in printed
    assert "\n  8 characters: ▁ehnortw\n" in printed
    assert "removed" not in printed
    assert "103-1240.trans.txt:4: there is no 103-1240-0009.flac beside it" in printed
    (path,) = tmp_path.glob("cache/*/report.json")
    report = json.loads(path.read_text())["train"]
    assert (report["utterances"], report["characters"], report["tokens"]) == (3, 33, 33)
    assert len(report["left_out"]) == 1
    assert Path(report["manifest"]).parent == path.parent


def test_markers_taken_out_of_texts_are_counted(
    tree: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ONE and TWO stand for markers: 3 of each; no utterance is wrong, although the first one holds nothing else."""
    (table,) = tmp_path.glob("LibriSpeech/*/*/*/*.trans.txt")
    table.write_text(table.read_text().replace("103-1240-0009 NINE\n", ""))
    prepare.main([*tree, "data.remove=[one,Two]"])
    printed = capsys.readouterr().out
    assert "train: 2 utterances" in printed
    assert "refused 0" in printed
    assert "\n  removed from texts: 3 one, 3 two; left out 1 utterance of nothing else\n" in printed
    (path,) = tmp_path.glob("cache/*/report.json")
    report = json.loads(path.read_text())["train"]
    assert (report["removed"], report["emptied"], report["left_out"]) == ({"one": 3, "two": 3}, 1, [])


@pytest.mark.parametrize(
    ("hours", "shown"), [(0.004, "0.24 min"), (0.0999, "5.99 min"), (0.1, "0.10 h"), (960, "960.00 h")]
)
def test_short_corpora_are_measured_in_minutes(hours: float, shown: str) -> None:
    assert duration(hours) == shown


def test_a_defect_stops(tree: list[str]) -> None:
    with pytest.raises(UsageError, match=r"trans.txt:4: there is no .* \[1 of 4 utterances of train are unusable"):
        prepare.main(tree)


def test_a_users_own_manifest_is_reported_before_it_is_refused(
    manifest: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "reports/mine.json"
    with pytest.raises(UsageError, match=r"b.wav: there is no such file.*\[1 of 2 utterances of train.jsonl"):
        prepare.main([*manifest, f"report={report}"])
    assert "train: 1 utterance, " in capsys.readouterr().out
    assert "no such file" in json.loads(report.read_text())["train"]["refused"][0]
    prepare.main([*manifest, f"report={report}", "data.on_bad=skip"])


def test_recordings_shared_by_two_splits_are_reported(
    tree: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skip = [*tree, "data.on_bad=skip"]
    prepare.main(skip)
    assert "warning" not in capsys.readouterr().out
    prepare.main([*skip, "data.dev=[train-clean-100]"])
    assert "warning: train and dev have 3 recordings in common, 103-1240-0000 first\n" in capsys.readouterr().out


def test_a_trained_tokenizer_is_used_by_its_folder(
    tree: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pieces"
    train_tokenizer.main([*tree, "data.on_bad=skip", f"out={out}", "tokenizer.vocabulary_size=12"])
    printed = capsys.readouterr().out
    assert f"{out}: 12 tokens from 3 texts" in printed
    use = printed.split("use it: ")[1].split()
    used = build(compose("train", use).tokenizer).fit([])
    saved = load_tokenizer(out)
    assert used.fingerprint == saved.fingerprint
    assert saved.decode(saved.encode("three one")) == "three one"
    upper = [each for each in use if not each.startswith("tokenizer.case=")] + ["tokenizer.case=upper"]
    with pytest.raises(ValueError, match=r"was saved with case lower, but tokenizer.case=upper"):
        build(compose("train", upper).tokenizer).fit([])


def test_what_cannot_be_trained_is_refused(tree: list[str], tmp_path: Path) -> None:
    skip = [*tree, "data.on_bad=skip"]
    with pytest.raises(UsageError, match="characters learns nothing"):
        train_tokenizer.main([*skip, f"out={tmp_path / 'pieces'}", "tokenizer=characters"])
    with pytest.raises(UsageError, match=r"vocabulary_size=5000 does not fit the 3 training texts"):
        train_tokenizer.main([*skip, f"out={tmp_path / 'pieces'}", "tokenizer.vocabulary_size=5000"])
    with pytest.raises(UsageError, match=r"out=.* exists"):
        train_tokenizer.main([*skip, f"out={tmp_path}"])
    with pytest.raises(UsageError, match=r"has no split train; it has test: set data.train"):
        train_tokenizer.main([*skip, "data.train=[]", "data.test=[train-clean-100]", f"out={tmp_path / 'pieces'}"])
