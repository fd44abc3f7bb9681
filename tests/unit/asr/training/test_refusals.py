"""Utterances left out: counted once, taken back to the point of a resume, and not lost by a kill."""

import json
import os
from pathlib import Path

import pytest

from asr.data.audio import BadUtterance
from asr.training.refusals import Refusals


def noted(folder: Path, *ids: str) -> Refusals:
    refusals = Refusals(folder, 0, 2)
    for position, utterance in enumerate(ids):
        refusals.add([BadUtterance(utterance, Path("a.wav"), "empty")], samples=10 * position)
    return refusals


def test_an_utterance_is_counted_once(tmp_path: Path) -> None:
    refusals = noted(tmp_path, "a", "b", "a")
    assert refusals.total == 4
    assert [json.loads(line)["id"] for line in refusals.path.read_text().splitlines()] == ["a", "b"]


def test_a_resume_takes_back_what_was_known_then(tmp_path: Path) -> None:
    path = noted(tmp_path, "a", "b", "c").path
    with path.open("a") as file:
        file.write('{"samples": 5, "id": "torn')
    refusals = Refusals(tmp_path, 0, 2)
    refusals.start(10)
    assert refusals.loading == {"a", "b"}
    assert len(path.read_text().splitlines()) == 2
    assert [each.name for each in path.parent.iterdir()] == ["0.jsonl"]


@pytest.mark.parametrize(
    "line", ["123", "[]", '{"samples": 5}', '{"samples": "5", "id": "x"}', '{"samples": 5, "id": []}', "\0"]
)
def test_a_damaged_line_is_set_aside(tmp_path: Path, line: str, caplog: pytest.LogCaptureFixture) -> None:
    path = noted(tmp_path, "a", "b").path
    whole = path.read_text()
    path.write_text(f"{line}\n{whole}")
    refusals = Refusals(tmp_path, 0, 2)
    refusals.start(10)
    assert refusals.loading == {"a", "b"}
    assert path.read_text() == whole
    assert path.with_suffix(".damaged").read_text() == f"{line}\n"
    assert "1 damaged line set aside in 0.damaged; line 1 " in caplog.text


def test_a_kill_while_the_list_is_cut_leaves_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = noted(tmp_path, "a", "b", "c").path
    whole = path.read_text()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        Refusals(tmp_path, 0, 2).start(10)
    assert path.read_text() == whole
