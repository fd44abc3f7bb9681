"""NeMo's manifests, by NeMo's names: several of them, segments without ids, and lines that are wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest

from asr.data.manifest import Utterance

Utterances = Callable[..., list[Utterance]]
Refusal = Callable[..., str]
Write = Callable[..., Path]

LINE = b'{"audio_filepath": "wav/a.wav", "duration": 0.5, "text": "Hello"}\n'
PARTS = (
    b'{"audio_filepath": "wav/a.wav", "offset": 0.1, "duration": 0.2, "text": "one"}\n'
    b'{"audio_filepath": "wav/a.wav", "offset": 0.3, "duration": 0.2, "text": "two"}'
)


@pytest.fixture(autouse=True)
def audio(write_audio: Write) -> None:
    write_audio("sets/wav/a.wav")


@pytest.mark.parametrize(
    "named",
    ["[sets/one.json,sets/two.json]", "'sets/one.json,sets/two.json'"],
    ids=["a list", "joined by commas"],
)
def test_several_manifests(utterances: Utterances, write_bytes: Write, tmp_path: Path, named: str) -> None:
    write_bytes("sets/one.json", b"\xef\xbb\xbf" + LINE.replace(b"\n", b"\r\n"))
    write_bytes("sets/two.json", PARTS)
    file = tmp_path / "sets/wav/a.wav"
    assert utterances("nemo", f"train_ds.manifest_filepath={named}") == [
        Utterance("a", file, 0.5, "hello"),
        Utterance("a-0000100-0000300", file, 0.2, "one", offset=0.1),
        Utterance("a-0000300-0000500", file, 0.2, "two", offset=0.3),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (LINE, "m.json:2: the id 'a' is already that of "),
        (LINE.replace(b', "text": "Hello"', b""), "m.json:2: no text; every line needs audio_filepath, duration"),
        (LINE.replace(b"Hello", b" ").replace(b"}", b', "id": "b"}'), "m.json:2: has no transcript"),
        (LINE.replace(b"0.5", b"-0.5").replace(b"}", b', "id": "b"}'), "a duration must be above 0"),
        (PARTS.replace(b"0.2", b"-0.2"), "m.json:2: the segment from 0.1 s to -0.1 s must begin at 0 s"),
        (LINE.replace(b"0.5", b"0.9").replace(b"}", b', "id": "b"}'), "but its manifest says 0.900 s"),
        (LINE.replace(b"}", b', "id": "b", "shard_id": 3}'), "m.json:2: is in a tar archive (shard_id)"),
        (b'{"audio_filepath": \n', "m.json:2: not JSON"),
    ],
    ids=["duplicate", "no text", "empty", "negative", "reversed", "duration", "tar", "JSON"],
)
def test_defects(refusal: Refusal, write_bytes: Write, line: bytes, message: str) -> None:
    write_bytes("sets/m.json", LINE + line)
    assert message in refusal("nemo", "train_ds.manifest_filepath=sets/m.json")


def test_a_wrong_rate(refusal: Refusal, write_bytes: Write) -> None:
    write_bytes("sets/m.json", LINE)
    message = refusal("nemo", "train_ds.manifest_filepath=sets/m.json", "sample_rate=8000")
    assert "m.json:1: " in message
    assert "is sampled at 16000 Hz, but data.sample_rate is 8000 Hz" in message


def test_a_missing_manifest(refusal: Refusal) -> None:
    assert "none.json: there is no such file" in refusal("nemo", "train_ds.manifest_filepath=none.json")
