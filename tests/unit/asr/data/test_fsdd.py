"""Spoken digits: the split keeps recordings and speakers apart, and strings are made of what their text says."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asr.data.corpus import CorpusError
from asr.data.fsdd import FsddConnected, FsddDigits
from asr.data.fsdd_recordings import find_recordings, split_recordings
from asr.data.manifest import Utterance, read_manifest
from asr.data.words import UNITS
from distributed.errors import UsageError

SPEAKERS = ["george", "jackson", "lucas", "nicolas", "theo", "yweweler"]

MakeDigits = Callable[..., FsddDigits]
MakeConnected = Callable[..., FsddConnected]


@pytest.fixture
def make_digits(small_fsdd: Path, tmp_path: Path) -> MakeDigits:
    """Isolated digits of the generated tree; keyword arguments replace settings."""

    def make(**changes: Any) -> FsddDigits:
        settings: dict[str, Any] = {
            "root": small_fsdd,
            "cache": tmp_path / "cache",
            "sample_rate": 8000,
            "on_bad": "stop",
            "held_out": None,
            "dev_recordings": 1,
            "train_recordings": None,
        }
        return FsddDigits(**(settings | changes))

    return make


@pytest.fixture
def make_connected(small_fsdd: Path, tmp_path: Path) -> MakeConnected:
    """Strings of the generated tree; keyword arguments replace settings."""

    def make(**changes: Any) -> FsddConnected:
        settings: dict[str, Any] = {
            "root": small_fsdd,
            "cache": tmp_path / "cache",
            "sample_rate": 8000,
            "on_bad": "stop",
            "held_out": None,
            "dev_recordings": 1,
            "train_recordings": None,
            "min_digits": 3,
            "max_digits": 7,
            "language": None,
            "silence_seconds": (0.05, 0.2),
            "train_strings": 40,
            "dev_strings": 6,
            "test_strings": 30,
            "seed": 1,
        }
        return FsddConnected(**(settings | changes))

    return make


def parts(utterance: Utterance) -> tuple[list[tuple[str, int, int]], list[int]]:
    """Recordings (speaker, digit, index) and lengths of silence that a string of the generated tree is made of."""
    samples, _ = soundfile.read(utterance.audio_filepath, dtype="int16")
    edges = np.flatnonzero(np.diff(samples)) + 1
    recordings, silences = [], []
    for run in np.split(samples, edges):
        if run[0] == 0:
            silences.append(len(run))
        else:
            speaker, rest = divmod(int(run[0]) - 1, 1000)
            digit, index = divmod(rest, 100)
            assert len(run) == 400 + 10 * digit + index, "a recording was cut"
            recordings.append((("anna", "ben")[speaker], digit, index))
    return recordings, silences


# The split


@pytest.mark.parametrize("held_out", [None, "anna"])
def test_splits_are_disjoint_and_follow_the_official_one(small_fsdd: Path, held_out: str | None) -> None:
    splits = split_recordings(find_recordings(small_fsdd), held_out, dev_recordings=1, train_recordings=None)
    paths = [recording.path for members in splits.values() for recording in members]
    assert len(paths) == len(set(paths))
    assert {recording.index for recording in splits["train"]} == {6, 7}
    assert {recording.index for recording in splits["dev"]} == {5}
    training_speakers = {recording.speaker for split in ("train", "dev") for recording in splits[split]}
    if held_out is None:
        assert training_speakers == {"anna", "ben"}
        assert {recording.index for recording in splits["test"]} == {0, 1, 2, 3, 4}
        assert len(splits["test"]) == 2 * 5 * 5
    else:
        assert training_speakers == {"ben"}
        assert {recording.speaker for recording in splits["test"]} == {"anna"}
        assert len(splits["test"]) == 5 * 8


def test_a_language_of_all_digits_names_a_speaker_who_lacks_one(make_connected: MakeConnected) -> None:
    message = r"data\.language=everyday needs all ten digits of every speaker; (anna|ben) has no recording of \d"
    with pytest.raises(UsageError, match=message):
        make_connected(language="everyday").prepare()


def test_an_unknown_speaker_is_named_with_those_there_are(make_digits: MakeDigits) -> None:
    with pytest.raises(ValueError, match=r"data\.held_out must be null or one of anna, ben, got 'carl'"):
        make_digits(held_out="carl").prepare()


def test_fewer_recordings_for_training_leave_dev_and_test_alone(small_fsdd: Path) -> None:
    recordings = find_recordings(small_fsdd)
    whole = split_recordings(recordings, "anna", dev_recordings=1, train_recordings=None)
    fewer = split_recordings(recordings, "anna", dev_recordings=1, train_recordings=1)
    assert len(whole["train"]) == 2 * len(fewer["train"])
    assert {recording.index for recording in fewer["train"]} == {6}
    assert (fewer["dev"], fewer["test"]) == (whole["dev"], whole["test"])


def test_more_recordings_than_there_are_are_refused(make_digits: MakeDigits) -> None:
    make_digits(train_recordings=2).prepare()
    with pytest.raises(ValueError, match=r"data\.train_recordings=3: 2 are left for training; choose fewer, or null"):
        make_digits(train_recordings=3).prepare()


def test_strings_are_made_of_the_recordings_that_training_has(make_connected: MakeConnected) -> None:
    def indices(split: str, train_recordings: int | None) -> set[int]:
        manifest = make_connected(train_recordings=train_recordings).prepare()[split]
        return {index for utterance in read_manifest(manifest) for _, _, index in parts(utterance)[0]}

    assert (indices("train", None), indices("train", 1)) == ({6, 7}, {6})
    assert indices("dev", 1) == {5}


def test_too_many_recordings_for_dev_are_refused(make_digits: MakeDigits) -> None:
    with pytest.raises(ValueError, match=r"no recording is left for train .*data\.dev_recordings=3"):
        make_digits(dev_recordings=3).prepare()


def test_a_missing_corpus_says_where_to_get_it_and_what_to_set(make_connected: MakeConnected, tmp_path: Path) -> None:
    with pytest.raises(
        CorpusError, match=r"github\.com/Jakobovski/free-spoken-digit-dataset.* set data\.root="
    ) as caught:
        make_connected(root=tmp_path / "nowhere").prepare()
    assert "\n" not in str(caught.value)


def test_a_file_with_another_name_is_not_skipped(make_digits: MakeDigits, small_fsdd: Path) -> None:
    (small_fsdd / "recordings" / "seven.wav").touch()
    with pytest.raises(CorpusError, match=r"seven\.wav is not named"):
        make_digits().prepare()


@pytest.mark.parametrize(("content", "rate"), [(None, 8000), (np.zeros((9, 2)), 8000), (np.zeros(9), 16000)])
def test_a_broken_recording_is_named(
    make_digits: MakeDigits, small_fsdd: Path, content: np.ndarray | None, rate: int
) -> None:
    path = small_fsdd / "recordings" / "3_ben_6.wav"
    path.write_bytes(b"no audio") if content is None else soundfile.write(path, content, rate)
    with pytest.raises(CorpusError, match=r"3_ben_6\.wav: "):
        make_digits().prepare()


# Isolated digits


def test_digits_keep_samples_words_and_speakers(make_digits: MakeDigits, small_fsdd: Path) -> None:
    manifests = make_digits().prepare()
    for split, expected in (("train", 20), ("dev", 10), ("test", 50)):
        utterances = read_manifest(manifests[split])
        assert len(utterances) == expected
        for utterance in utterances:
            digit, speaker, _ = utterance.id.split("_")
            assert (utterance.text, utterance.speaker) == (UNITS[int(digit)], speaker)
            made, _ = soundfile.read(utterance.audio_filepath, dtype="int16")
            original, _ = soundfile.read(small_fsdd / "recordings" / f"{utterance.id}.wav", dtype="int16")
            assert np.array_equal(made, original)
            assert utterance.duration == len(original) / 8000


def test_digits_at_another_rate(make_digits: MakeDigits) -> None:
    utterance = read_manifest(make_digits(sample_rate=16000).prepare()["train"])[0]
    info = soundfile.info(str(utterance.audio_filepath))
    assert (info.samplerate, info.frames) == (16000, 2 * 406)


# Strings


@pytest.mark.parametrize("held_out", [None, "anna"])
def test_strings_are_made_of_what_their_text_says(make_connected: MakeConnected, held_out: str | None) -> None:
    allowed = {"train": {6, 7}, "dev": {5}, "test": set(range(8)) if held_out else set(range(5))}
    seen = Counter[int]()
    for split, manifest in make_connected(held_out=held_out).prepare().items():
        for utterance in read_manifest(manifest):
            recordings, silences = parts(utterance)
            assert utterance.text == " ".join(UNITS[digit] for _, digit, _ in recordings)
            assert {speaker for speaker, _, _ in recordings} == {utterance.speaker}
            assert {index for _, _, index in recordings} <= allowed[split]
            assert held_out is None or (utterance.speaker == held_out) == (split == "test")
            assert len(silences) == len(recordings) + 1
            assert all(400 <= length <= 1600 for length in silences)
            seen[len(recordings)] += 1
    assert set(seen) == {3, 4, 5, 6, 7}


def test_speakers_take_turns(make_connected: MakeConnected) -> None:
    speakers = Counter(utterance.speaker for utterance in read_manifest(make_connected().prepare()["test"]))
    assert speakers == {"anna": 15, "ben": 15}


def test_strings_depend_on_seed_split_and_index_alone(make_connected: MakeConnected) -> None:
    def content(split: str, **changes: Any) -> list[bytes]:
        manifest = make_connected(**changes).prepare()[split]
        return [utterance.audio_filepath.read_bytes() for utterance in read_manifest(manifest)]

    assert content("test") == content("test", train_strings=7, test_strings=35)[:30]
    assert content("test") != content("test", seed=2)


def test_other_recordings_make_another_corpus(make_connected: MakeConnected, small_fsdd: Path) -> None:
    before = make_connected().prepare()["train"]
    assert make_connected().prepare()["train"] == before
    soundfile.write(small_fsdd / "recordings" / "4_ben_7.wav", np.ones(600, dtype=np.int16), 8000)
    assert make_connected().prepare()["train"] != before


def test_the_shortest_string_may_not_be_longer_than_the_longest(make_connected: MakeConnected) -> None:
    with pytest.raises(ValueError, match=r"data\.min_digits=5 must not be above data\.max_digits=3"):
        make_connected(min_digits=5, max_digits=3)


# The real corpus, where there is a copy


def test_official_split_of_the_real_corpus(make_digits: MakeDigits, fsdd_root: Path) -> None:
    manifests = make_digits(root=fsdd_root, dev_recordings=5).prepare()
    utterances = {split: read_manifest(path) for split, path in manifests.items()}
    assert {split: len(members) for split, members in utterances.items()} == {"train": 2400, "dev": 300, "test": 300}
    assert sorted({utterance.speaker for utterance in utterances["test"]}) == SPEAKERS


@pytest.mark.parametrize("speaker", ["george", "theo"])
def test_strings_of_the_real_corpus_with_a_speaker_held_out(
    make_connected: MakeConnected, fsdd_root: Path, speaker: str
) -> None:
    manifests = make_connected(root=fsdd_root, dev_recordings=5, held_out=speaker).prepare()
    speakers = {split: {u.speaker for u in read_manifest(path)} for split, path in manifests.items()}
    assert speakers["test"] == {speaker}
    assert speakers["train"] == speakers["dev"] == set(SPEAKERS) - {speaker}
    assert all(0.9 < utterance.duration < 12 for utterance in read_manifest(manifests["test"]))
