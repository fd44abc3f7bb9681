"""Lhotse's cuts, and supervisions beside recordings, as to_file writes them; cuts made while they are read are refused."""

import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asr.data.manifest import Utterance

Utterances = Callable[..., list[Utterance]]
Refusal = Callable[..., str]
Write = Callable[..., Path]

CUT: dict[str, Any] = json.loads(
    '{"id": "rec1-0", "start": 0.1, "duration": 0.3, "channel": 0, "supervisions": [{"id": "rec1-0", "recording_id": '
    '"rec1", "start": 0.0, "duration": 0.3, "channel": 0, "text": "HELLO THERE", "language": "English", "speaker": '
    '"103"}], "recording": {"id": "rec1", "sources": [{"type": "file", "channels": [0], "source": "wav/a.flac"}], '
    '"sampling_rate": 16000, "num_samples": 8000, "duration": 0.5, "channel_ids": [0]}, "type": "MonoCut"}'
)
OVERRIDES = ("train=[cuts.jsonl.gz]", "dev=[]", "test=[]")
SUPERVISION = CUT["supervisions"][0]


def cut(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(CUT) | changes


def recording(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(CUT["recording"]) | changes


@pytest.fixture
def write(write_bytes: Write, write_audio: Write) -> Callable[..., None]:
    """Write a gzipped file of cuts, and its audio."""

    def make(*cuts: dict[str, Any], channels: int = 1) -> None:
        write_audio("wav/a.flac", channels=channels)
        write_bytes("cuts.jsonl.gz", gzip.compress("".join(json.dumps(each) + "\n" for each in cuts).encode()))

    return make


def test_cuts_are_read(write: Callable[..., None], utterances: Utterances, tmp_path: Path) -> None:
    file = tmp_path / "wav/a.flac"
    write(cut(), cut(id="whole", start=0, duration=0.5, supervisions=[SUPERVISION | {"speaker": None}]))
    assert utterances("lhotse", *OVERRIDES) == [
        Utterance("rec1-0", file, 0.3, "hello there", "103", 0.1),
        Utterance("whole", file, 0.5, "hello there"),
    ]


def test_plain_json_lines_with_windows_ends(
    write: Callable[..., None], write_bytes: Write, utterances: Utterances
) -> None:
    write(cut())
    expected = utterances("lhotse", *OVERRIDES)
    write_bytes("cuts.jsonl", b"\xef\xbb\xbf" + json.dumps(cut()).encode() + b"\r\n")
    assert utterances("lhotse", "train=[cuts.jsonl]", "dev=[]", "test=[]") == expected


def test_a_channel_of_two(write: Callable[..., None], utterances: Utterances) -> None:
    sources = [{"type": "file", "channels": [0, 1], "source": "wav/a.flac"}]
    write(cut(channel=1, recording=recording(sources=sources, channel_ids=[0, 1])), channels=2)
    assert utterances("lhotse", *OVERRIDES)[0].channel == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (cut(), "cuts.jsonl.gz:2: the id 'rec1-0' is already that of "),
        (cut(id="b", supervisions=[]), "cuts.jsonl.gz:2: has no transcript; add a supervision"),
        (cut(id="b", supervisions=[SUPERVISION | {"text": ""}]), "cuts.jsonl.gz:2: has no transcript"),
        (cut(id="b", supervisions=[SUPERVISION] * 2), "has 2 supervisions; make one cut of each: lhotse cut trim-"),
        (cut(id="b", supervisions=[SUPERVISION | {"text": 5}]), "its text must be a string, got 5"),
        ({"id": "b", "tracks": [{}, {}], "type": "MixedCut"}, "is a MixedCut, whose 2 tracks are mixed while it is read; "),
        ({"id": "b", "duration": 1.0, "type": "PaddingCut"}, "is a PaddingCut, silence that nobody recorded; remove"),
        (cut(id="b", type="TextCut"), "is a TextCut, and only MonoCut and MultiCut are read; write files"),
        (cut(id="b", recording=None), "has no recording, only features perhaps"),
        (cut(id="b", recording=recording(transforms=[{"name": "Speed"}])), "is transformed while it is read (Speed)"),
        (
            cut(id="b", recording=recording(sources=[{"type": "command", "channels": [0], "source": "cat a |"}])),
            "its recording is a command, not a file",
        ),
        (cut(id="b", start=-0.1), "cuts.jsonl.gz:2: the segment from -0.1 s to 0.2 s must begin at 0 s"),
        (cut(id="b", duration=-0.3), "cuts.jsonl.gz:2: the segment from 0.1 s to -0.2 s must begin at 0 s"),
        ({"id": "b"}, "cuts.jsonl.gz:2: has no recording"),
        ({"audio_filepath": "a.wav"}, "cuts.jsonl.gz:2: is no cut of Lhotse; write the file anew with its to_file (KeyError('id'))"),
        (cut(id="b", channel=3), "cuts.jsonl.gz:2: names channel 3, but its recording has the channel 0; correct the cut"),
    ],
    ids=[
        "duplicate", "missing", "empty", "several", "number", "mixed", "padding", "unknown", "features", "transforms",
        "command", "negative", "reversed", "no cut", "NeMo", "channel",
    ],
)  # fmt: skip
def test_defects(write: Callable[..., None], refusal: Refusal, wrong: dict[str, Any], message: str) -> None:
    write(cut(), wrong)
    assert message in refusal("lhotse", *OVERRIDES)


STEREO = recording(sources=[{"type": "file", "channels": [0, 1], "source": "wav/a.flac"}], channel_ids=[0, 1])
MULTI = cut(type="MultiCut", channel=[0, 1], recording=STEREO)


@pytest.mark.parametrize(
    ("spoken_in", "chosen", "expected"), [(1, (), 1), ([1], (), 1), ([0, 1], ("channel=1",), 1), (0, ("channel=1",), 0)]
)
def test_a_cut_of_several_channels(
    write: Callable[..., None], utterances: Utterances, spoken_in: Any, chosen: tuple[str, ...], expected: int
) -> None:
    write(MULTI | {"supervisions": [SUPERVISION | {"channel": spoken_in}]}, channels=2)
    assert utterances("lhotse", *OVERRIDES, *chosen)[0].channel == expected


def test_without_a_choice_a_cut_of_several_channels_is_refused(write: Callable[..., None], refusal: Refusal) -> None:
    write(MULTI | {"supervisions": [SUPERVISION | {"channel": [0, 1]}]}, channels=2)
    message = refusal("lhotse", *OVERRIDES)
    assert "has the channels 0, 1, and its text is of all; choose one: data.channel=0" in message
    assert "names channel 2, but its recording has the channels 0, 1" in refusal("lhotse", *OVERRIDES, "channel=2")


SUPERVISIONS = ("train=[x_supervisions_train.jsonl.gz]", "dev=[]", "test=[]")


@pytest.fixture
def write_supervisions(write_bytes: Write, write_audio: Write) -> Callable[..., None]:
    """Write supervisions and the recordings beside them, as Lhotse's recipes name the files."""

    def make(*supervisions: dict[str, Any]) -> None:
        write_audio("wav/a.flac")
        for kind, records in (("recordings", [CUT["recording"]]), ("supervisions", supervisions)):
            lines = "".join(json.dumps(each) + "\n" for each in records)
            write_bytes(f"x_{kind}_train.jsonl.gz", gzip.compress(lines.encode()))

    return make


def test_supervisions_beside_their_recordings(
    write_supervisions: Callable[..., None], utterances: Utterances, tmp_path: Path
) -> None:
    later = SUPERVISION | {"id": "rec1-1", "start": 0.3, "duration": 0.2, "text": "YES", "speaker": 7}
    write_supervisions(SUPERVISION, later)
    file = tmp_path / "wav/a.flac"
    assert utterances("lhotse", *SUPERVISIONS) == [
        Utterance("rec1-0", file, 0.3, "hello there", "103", 0.0),
        Utterance("rec1-1", file, 0.2, "yes", "7", 0.3),
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (SUPERVISION, "x_supervisions_train.jsonl.gz:2: the id 'rec1-0' is already that of "),
        (SUPERVISION | {"recording_id": "rec2"}, "x_recordings_train.jsonl.gz has no recording 'rec2'; add it"),
        (SUPERVISION | {"id": "b", "text": None}, "x_supervisions_train.jsonl.gz:2: has no transcript"),
        (SUPERVISION | {"id": "b", "start": -0.1}, "the segment from -0.1 s to 0.2 s must begin at 0 s"),
        (SUPERVISION | {"id": "b", "channel": 1}, "names channel 1, but its recording has the channel 0"),
        ({"id": "b"}, "x_supervisions_train.jsonl.gz:2: is no supervision of Lhotse; write the file anew"),
    ],
    ids=["duplicate", "recording", "missing transcript", "negative", "channel", "no supervision"],
)
def test_defects_of_supervisions(
    write_supervisions: Callable[..., None], refusal: Refusal, wrong: dict[str, Any], message: str
) -> None:
    write_supervisions(SUPERVISION, wrong)
    assert message in refusal("lhotse", *SUPERVISIONS)


def test_two_recordings_of_one_id_are_a_defect_and_the_same_twice_is_none(
    write_supervisions: Callable[..., None], write_bytes: Write, refusal: Refusal, utterances: Utterances
) -> None:
    write_supervisions(SUPERVISION)
    for other in (recording(), recording(num_samples=9000)):
        lines = "".join(json.dumps(each) + "\n" for each in (recording(), other))
        write_bytes("x_recordings_train.jsonl.gz", gzip.compress(lines.encode()))
        if other == recording():
            assert len(utterances("lhotse", *SUPERVISIONS)) == 1
    assert "x_recordings_train.jsonl.gz:2: another recording has the id 'rec1'" in refusal("lhotse", *SUPERVISIONS)


def test_files_of_recordings_alone_are_no_speech(
    write_supervisions: Callable[..., None], refusal: Refusal, tmp_path: Path
) -> None:
    write_supervisions(SUPERVISION)
    assert "is of recordings; name the supervisions" in refusal("lhotse", "train=[x_recordings_train.jsonl.gz]")
    (tmp_path / "x_recordings_train.jsonl.gz").unlink()
    assert "there is no " in (message := refusal("lhotse", *SUPERVISIONS))
    assert "x_recordings_train.jsonl.gz; name files of cuts" in message


def test_a_changed_file_of_recordings_is_read_anew(
    write_supervisions: Callable[..., None], write_bytes: Write, utterances: Utterances, refusal: Refusal
) -> None:
    write_supervisions(SUPERVISION)
    utterances("lhotse", *SUPERVISIONS)
    write_bytes("x_recordings_train.jsonl.gz", gzip.compress(b'{"id": "other"}\n'))
    assert "has no recording 'rec1'" in refusal("lhotse", *SUPERVISIONS)


def test_a_damaged_file(write_bytes: Write, refusal: Refusal) -> None:
    write_bytes("cuts.jsonl.gz", gzip.compress(json.dumps(cut()).encode())[:-9])
    assert "cuts.jsonl.gz: cannot be read" in refusal("lhotse", *OVERRIDES)


def test_a_missing_file(refusal: Refusal) -> None:
    assert "data.train: there is no " in refusal("lhotse", *OVERRIDES)
