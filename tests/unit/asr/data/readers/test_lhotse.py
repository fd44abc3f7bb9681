"""Lhotse's cuts as CutSet.to_file writes them; cuts that exist only while they are read are refused."""

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
        (cut(id="b", supervisions=[SUPERVISION] * 2), "has 2 supervisions; make one cut of each"),
        (cut(id="b", type="MixedCut"), "is a MixedCut, and only MonoCut is read; write it as a file"),
        (cut(id="b", recording=None), "has no recording, only features perhaps"),
        (cut(id="b", recording=recording(transforms=[{"name": "Speed"}])), "is transformed while it is read (Speed)"),
        (
            cut(id="b", recording=recording(sources=[{"type": "command", "channels": [0], "source": "cat a |"}])),
            "its recording is a command, not a file",
        ),
        (cut(id="b", start=-0.1), "cuts.jsonl.gz:2: the segment from -0.1 s to 0.2 s must begin at 0 s"),
        (cut(id="b", duration=-0.3), "cuts.jsonl.gz:2: the segment from 0.1 s to -0.2 s must begin at 0 s"),
        ({"id": "b"}, "cuts.jsonl.gz:2: has no recording"),
        ({"audio_filepath": "a.wav"}, "cuts.jsonl.gz:2: is not a cut of Lhotse (KeyError('id'))"),
        (cut(id="b", channel=3), "cuts.jsonl.gz:2: names channel 3, which its recording does not have"),
    ],
    ids=[
        "duplicate", "missing", "empty", "several", "mixed", "features", "transforms", "command", "negative", "reversed",
        "no cut", "NeMo", "channel",
    ],
)  # fmt: skip
def test_defects(write: Callable[..., None], refusal: Refusal, wrong: dict[str, Any], message: str) -> None:
    write(cut(), wrong)
    assert message in refusal("lhotse", *OVERRIDES)


def test_a_wrong_rate(write: Callable[..., None], refusal: Refusal) -> None:
    write(cut())
    assert "is sampled at 16000 Hz, but data.sample_rate is 8000 Hz" in refusal(
        "lhotse", *OVERRIDES, "sample_rate=8000"
    )


def test_a_damaged_file(write_bytes: Write, refusal: Refusal) -> None:
    write_bytes("cuts.jsonl.gz", gzip.compress(json.dumps(cut()).encode())[:-9])
    assert "cuts.jsonl.gz: cannot be read" in refusal("lhotse", *OVERRIDES)


def test_a_missing_file(refusal: Refusal) -> None:
    assert "data.train: there is no " in refusal("lhotse", *OVERRIDES)
