"""LibriSpeech's tree is read as it unpacks, and each defect found in the wild is named with file, line and remedy."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from asr.data.audio import read_audio
from asr.data.corpus import Corpus
from asr.data.manifest import Utterance

CHAPTER = "train-clean-100/103/1240"
TABLE = f"{CHAPTER}/103-1240.trans.txt"
NAMES = ("103-1240-0000", "103-1240-0001")
TEXT = b"103-1240-0000 CHAPTER ONE MISSUS RACHEL LYNDE\n103-1240-0001 THAT HAD ITS SOURCE\n"
SUBSETS = ("train=[train-clean-100]", "dev=[]", "test=[]")

Utterances = Callable[..., list[Utterance]]
Refusal = Callable[..., str]
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def tree(write_audio: Write, write_bytes: Write) -> None:
    for name in NAMES:
        write_audio(f"{CHAPTER}/{name}.flac")
    write_bytes(TABLE, TEXT)


def test_a_tree_is_read(utterances: Utterances, tmp_path: Path) -> None:
    first, second = utterances("librispeech", *SUBSETS)
    file = tmp_path / CHAPTER / "103-1240-0000.flac"
    assert first == Utterance(NAMES[0], file, 0.5, "chapter one missus rachel lynde", "103")
    assert second.id == NAMES[1]


def test_subsets_make_splits(corpus: Callable[..., Corpus], write_audio: Write, write_bytes: Write) -> None:
    write_audio("dev-clean/7/1/7-1-0000.flac")
    write_bytes("dev-clean/7/1/7-1.trans.txt", b"7-1-0000 YES\n")
    manifests = corpus("librispeech", "train=[train-clean-100,dev-clean]", "dev=[dev-clean]", "test=[]").prepare()
    assert [len(path.read_text().splitlines()) for path in manifests.values()] == [3, 1]
    assert list(manifests) == ["train", "dev"]


@pytest.mark.parametrize(
    "content",
    [TEXT.replace(b" ", b"\t", 1).replace(b"ONE ", b"ONE   "), b"\n" + TEXT + b"\n\n"],
    ids=["blanks", "empty lines"],
)
def test_blanks_do_not_count(utterances: Utterances, write_bytes: Write, content: bytes) -> None:
    expected = utterances("librispeech", *SUBSETS)
    write_bytes(TABLE, content)
    assert utterances("librispeech", *SUBSETS) == expected


def test_upper_case_suffixes(utterances: Utterances, tmp_path: Path) -> None:
    file = tmp_path / CHAPTER / f"{NAMES[0]}.flac"
    file.rename(file.with_suffix(".FLAC"))
    assert utterances("librispeech", *SUBSETS)[0].audio_filepath == file.with_suffix(".FLAC")


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        (".ogg", {"format": "OGG", "subtype": "VORBIS"}),
        (".opus", {"format": "OGG", "subtype": "OPUS"}),
        (".mp3", {"format": "MP3"}),
        (".sph", {"format": "NIST"}),
        (".aif", {"format": "AIFF"}),
    ],
)
def test_every_format_that_libsndfile_reads(
    utterances: Utterances, tmp_path: Path, suffix: str, kind: dict[str, str]
) -> None:
    file = tmp_path / CHAPTER / f"{NAMES[0]}.flac"
    samples, rate = soundfile.read(file)
    file.unlink()
    other = file.with_suffix(suffix)
    soundfile.write(other, samples, rate, **kind)
    first, second = utterances("librispeech", *SUBSETS)
    assert (first.audio_filepath, first.duration, second.id) == (other, 0.5, NAMES[1])
    assert len(read_audio(first, 16000, resample=False)) == 8000


def test_files_that_macos_leaves_are_no_utterances(utterances: Utterances, write_bytes: Write) -> None:
    write_bytes(f"{CHAPTER}/._103-1240.trans.txt", b"\x00\x05\x16\x07")
    write_bytes(f"{CHAPTER}/._{NAMES[0]}.flac", b"\x00\x05\x16\x07")
    assert [each.id for each in utterances("librispeech", *SUBSETS)] == list(NAMES)


@pytest.mark.parametrize(("case", "text"), [("lower", "that"), ("upper", "THAT"), ("keep", "That")])
def test_case(utterances: Utterances, write_bytes: Write, case: str, text: str) -> None:
    write_bytes(TABLE, b"103-1240-0000 That\n103-1240-0001 That\n")
    assert utterances("librispeech", *SUBSETS, f"case={case}")[0].text == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"103-1240-0000 ONE\n", f"{NAMES[1]}.flac: has no transcript in 103-1240.trans.txt; add a line or remove"),
        (b"103-1240-0000 ONE\n103-1240-0001\n", "trans.txt:2: has no transcript; write its text or remove the line"),
        (TEXT + b"103-1240-0009 NINE\n", "trans.txt:3: there is no 103-1240-0009.flac beside it, nor one of another"),
        (TEXT + b"103-1240-0000 AGAIN\n", "trans.txt:3: the id '103-1240-0000' is already that of"),
    ],
    ids=["missing transcript", "empty transcript", "missing audio", "duplicate id"],
)
def test_defects_stop(refusal: Refusal, write_bytes: Write, content: bytes, message: str) -> None:
    write_bytes(TABLE, content)
    refused = refusal("librispeech", *SUBSETS)
    assert message in refused
    assert "[1 of " in refused
    assert "data.on_bad=skip leaves them out" in refused


def test_a_chapter_without_transcripts_is_not_passed_over(refusal: Refusal, write_audio: Write) -> None:
    write_audio("train-clean-100/103/1241/103-1241-0000.flac")
    message = refusal("librispeech", *SUBSETS)
    assert "103-1241-0000.flac: has no transcript: there is no *.trans.txt beside it; copy that" in message
    assert "[1 of 3 utterances" in message


def test_two_files_of_one_name_are_not_chosen_between(refusal: Refusal, write_audio: Write) -> None:
    write_audio(f"{CHAPTER}/{NAMES[1]}.wav")
    message = refusal("librispeech", *SUBSETS)
    assert f"{NAMES[1]}.flac and {NAMES[1]}.wav lie beside it" in message
    assert "remove all but one" in message


def test_a_wrong_rate_stops(refusal: Refusal, write_audio: Write) -> None:
    write_audio(f"{CHAPTER}/{NAMES[1]}.flac", sample_rate=8000)
    message = refusal("librispeech", *SUBSETS)
    assert "trans.txt:2:" in message
    assert (
        f"{NAMES[1]}.flac: is sampled at 8000 Hz, but data.sample_rate is 16000 Hz; set data.resample=true" in message
    )


def test_text_that_is_not_utf8_names_the_line(refusal: Refusal, write_bytes: Write) -> None:
    write_bytes(TABLE, b"103-1240-0000 ONE\n103-1240-0001 CAF\xc9\n")
    assert "trans.txt:2: not UTF-8" in (message := refusal("librispeech", *SUBSETS))
    assert "iconv -f latin1" in message


def test_text_in_the_wide_characters_of_windows_names_how_to_convert_it(refusal: Refusal, write_bytes: Write) -> None:
    write_bytes(TABLE, TEXT.decode().encode("utf-16"))
    assert "convert it: iconv -f utf-16 -t utf-8 103-1240.trans.txt" in refusal("librispeech", *SUBSETS)


def test_skip_leaves_out_counts_and_lists(
    corpus: Callable[..., Corpus], write_bytes: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write_bytes(TABLE, TEXT + b"103-1240-0009 NINE\n")
    manifest = corpus("librispeech", *SUBSETS, "on_bad=skip").prepare()["train"]
    assert len(manifest.read_text().splitlines()) == 2
    (refused,) = map(json.loads, (manifest.parent / "refused.jsonl").read_text().splitlines())
    assert (refused["split"], refused["utterance_id"]) == ("train", "103-1240-0009")
    assert refused["where"].endswith("trans.txt:3")
    assert caplog.text.count("train: left out 1 utterance, listed in") == 1


def test_utterances_left_out_are_reported_once_by_every_run(
    corpus: Callable[..., Corpus], write_bytes: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write_bytes(TABLE, TEXT + b"103-1240-0009 NINE\n")
    for _ in range(2):  # the second finds the manifests
        caplog.clear()
        made = corpus("librispeech", *SUBSETS, "on_bad=skip")
        made.prepare()
        made.prepare()
        assert caplog.text.count("left out 1 utterance") == 1
        assert "103-1240.trans.txt:3: there is no" in caplog.text


def test_nothing_usable_stops_even_with_skip(refusal: Refusal, write_audio: Write) -> None:
    for name in NAMES:
        write_audio(f"{CHAPTER}/{name}.flac", sample_rate=8000)
    assert "all 2 utterances of train are unusable" in refusal("librispeech", *SUBSETS, "on_bad=skip")


def test_a_missing_subset_names_those_that_are_there(refusal: Refusal) -> None:
    message = refusal("librispeech", "train=[train-clean-360]")
    assert "data.train: no <speaker>/<chapter>/*.trans.txt below" in message
    assert "holds cache, train-clean-100" in message or "holds train-clean-100" in message


def test_a_missing_root(refusal: Refusal, tmp_path: Path) -> None:
    assert "there is no such folder; set data.root=" in refusal("librispeech", f"root={tmp_path / 'none'}")


def test_manifests_are_made_once_and_anew_when_a_table_changes(
    corpus: Callable[..., Corpus], tmp_path: Path, write_bytes: Write
) -> None:
    first = corpus("librispeech", *SUBSETS).prepare()["train"]
    made = first.stat().st_mtime_ns
    assert corpus("librispeech", *SUBSETS).prepare()["train"] == first
    assert first.stat().st_mtime_ns == made
    table = write_bytes(TABLE, TEXT.replace(b"SOURCE", b"SAUCES"))  # of the same size
    os.utime(table, ns=(0, made + 1))
    second = corpus("librispeech", *SUBSETS).prepare()["train"]
    assert second != first
    assert "sauces" in second.read_text()
