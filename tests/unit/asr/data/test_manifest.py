"""Manifests: what is written is read back, and what is wrong is named with file and line."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.data.manifest import ManifestError, Utterance, read_manifest, write_manifest

LINE = {"audio_filepath": "a/b.wav", "duration": 1.5, "text": "hello"}


def write_lines(folder: Path, *lines: object) -> Path:
    path = folder / "train.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_defaults_and_relative_paths(tmp_path: Path) -> None:
    (utterance,) = read_manifest(write_lines(tmp_path, LINE))
    assert utterance == Utterance("b", tmp_path / "a/b.wav", 1.5, "hello", speaker="", offset=None)


def test_an_offset_of_zero_is_a_segment_and_none_is_the_whole_file(tmp_path: Path) -> None:
    whole, segment, null = read_manifest(
        write_lines(tmp_path, LINE, LINE | {"offset": 0}, LINE | {"offset": None, "id": None, "speaker": None})
    )
    assert (whole.offset, segment.offset, null.offset) == (None, 0.0, None)
    assert (null.id, null.speaker) == ("b", "")


def test_a_corpus_can_be_moved_as_a_whole(tmp_path: Path) -> None:
    inside = Utterance("i", tmp_path / "old/audio/i.wav", 1.0, "x")
    outside = Utterance("o", tmp_path / "elsewhere/o.wav", 1.0, "x", "s", 0.5)
    write_manifest(tmp_path / "old/m.jsonl", [inside, outside])
    (tmp_path / "old").rename(tmp_path / "new")
    files = [utterance.audio_filepath for utterance in read_manifest(tmp_path / "new/m.jsonl")]
    assert files == [tmp_path / "new/audio/i.wav", tmp_path / "elsewhere/o.wav"]


def test_a_relative_path_outside_the_folder_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_manifest(Path("out/m.jsonl"), [Utterance("o", Path("corpora/o.wav"), 1.0, "x")])
    (utterance,) = read_manifest(Path("out/m.jsonl"))
    assert utterance.audio_filepath == tmp_path / "corpora/o.wav"


@given(
    text=st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    offset=st.none() | st.floats(0, 1e6),
)
def test_round_trip_of_any_text(text: str, offset: float | None, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Line separators inside a text (U+2028, U+0085, ...) must not cut its line."""
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    utterance = Utterance("ü/1", path.parent / "é.flac", 0.123456789, text, "speaker", offset)
    write_manifest(path, [utterance])
    assert read_manifest(path) == [utterance]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "train.jsonl:2: not JSON"),
        ([1], "train.jsonl:2: expected a JSON object, got list"),
        ({"text": "x"}, "no audio_filepath and no duration"),
        (LINE | {"duration": "long"}, "duration must be a number of seconds, got 'long'"),
        (LINE | {"offset": []}, "offset must be a number of seconds"),
        (LINE | {"text": None}, "text must be a string, got None"),
        (LINE | {"audio_filepath": 7}, "audio_filepath must be a string, got 7"),
    ],
)
def test_a_bad_line_is_named(line: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=message.replace("[", r"\[")):
        read_manifest(write_lines(tmp_path, LINE, line))


def test_an_empty_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"train\.jsonl: the manifest is empty"):
        read_manifest(write_lines(tmp_path, "", "  "))


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none\.jsonl: cannot be read"):
        read_manifest(tmp_path / "none.jsonl")


def test_a_channel_is_kept_and_must_be_a_whole_number(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", [Utterance("a", tmp_path / "a.wav", 1.0, "x", channel=1)])
    assert [utterance.channel for utterance in read_manifest(tmp_path / "m.jsonl")] == [1]
    for wrong in (-1, "A", 0.0, True):
        with pytest.raises(ManifestError, match=r"train.jsonl:1: channel must be a whole number counted from 0"):
            read_manifest(write_lines(tmp_path, LINE | {"channel": wrong}))
