"""NeMo's manifests, by NeMo's names: several of them, segments without ids, and lines that are wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest

from asr.data.corpus import Corpus
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
        (LINE.replace(b"}", b', "id": "b", "shard_id": 3}'), "m.json:2: has a shard_id: audio in tar archives is not read"),
        (b'{"audio_filepath": \n', "m.json:2: not JSON"),
        (PARTS.replace(b"0.1", b"-0.1"), "m.json:2: the segment from -0.1 s to 0.1 s must begin at 0 s"),
        (PARTS.replace(b"0.3", b"0.4"), "a.wav: lasts 0.500 s, but the utterance is said to go from 0.400 s to 0.600 s"),
        (LINE.replace(b'"wav/a.wav"', b'["wav/a.wav", "wav/b.wav"]'), "m.json:2: audio_filepath must be a string, got ["),
        (LINE.replace(b'"text": "Hello"', b'"text_filepath": "none.txt"'), "m.json:2: its text_filepath cannot be read"),
        (b"[1]\n", "m.json:2: expected a JSON object, got list"),
    ],
    ids=[
        "duplicate", "no text", "empty", "negative", "reversed", "duration", "tar", "JSON", "before the beginning",
        "beyond the end", "several files", "text_filepath", "no object",
    ],
)  # fmt: skip
def test_defects(refusal: Refusal, write_bytes: Write, line: bytes, message: str) -> None:
    write_bytes("sets/m.json", LINE + line)
    assert message in refusal("nemo", "train_ds.manifest_filepath=sets/m.json")


def test_a_missing_manifest(refusal: Refusal) -> None:
    assert "none.json: there is no such file" in refusal("nemo", "train_ds.manifest_filepath=none.json")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"audio_filepath"', b'"audio_filename"'),
        (b'"text": "Hello"', b'"normalized_text": "Hello"'),
        (b'"text": "Hello"', b'"text": "Hello", "normalized_text": "bye"'),
        (b'"text": "Hello"', b'"text_filepath": "hello.txt", "normalized_text": "bye"'),
    ],
    ids=["audio_filename", "normalized_text", "text is preferred", "text_filepath"],
)
def test_other_keys_of_nemo(utterances: Utterances, write_bytes: Write, old: bytes, new: bytes) -> None:
    write_bytes("sets/m.json", LINE)
    expected = utterances("nemo", "train_ds.manifest_filepath=sets/m.json")
    write_bytes("sets/hello.txt", b"\xef\xbb\xbfHello\r\n")
    write_bytes("sets/m.json", LINE.replace(old, new))
    assert utterances("nemo", "train_ds.manifest_filepath=sets/m.json") == expected


def test_files_of_the_same_name_in_several_folders(
    utterances: Utterances, write_audio: Write, write_bytes: Write
) -> None:
    write_audio("sets/other/a.wav")
    names = [b'"wav/a.wav"', b'"other/a.wav"', b'"wav/a.wav", "id": "mine"']
    write_bytes("sets/m.json", b"".join(LINE.replace(b'"wav/a.wav"', name) for name in names))
    found = utterances("nemo", "train_ds.manifest_filepath=sets/m.json")
    assert [each.id for each in found] == ["wav-a", "other-a", "mine"]


def test_a_speaker_may_be_a_number(utterances: Utterances, write_bytes: Write) -> None:
    write_bytes("sets/m.json", LINE.replace(b"}", b', "speaker": 0}'))
    assert utterances("nemo", "train_ds.manifest_filepath=sets/m.json")[0].speaker == "0"


def test_audio_root(utterances: Utterances, write_bytes: Write, tmp_path: Path) -> None:
    write_bytes("m.json", LINE)
    (found,) = utterances("nemo", "train_ds.manifest_filepath=m.json", f"audio_root={tmp_path / 'sets'}")
    assert found.audio_filepath == tmp_path / "sets/wav/a.wav"


def test_manifests_of_shards_are_refused(refusal: Refusal) -> None:
    for name in ("m__OP_0..3_CL_.json", "'m_{0..3}.json'"):
        assert "audio in tar archives is not read" in refusal("nemo", f"train_ds.manifest_filepath={name}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train_ds.is_tarred=true", "got manifest_filepath, is_tarred; audio in tar archives is not read"),
        (
            "train_ds.batch_size=8",
            "data.train_ds must have manifest_filepath alone, got .*batch_size; remove the others",
        ),
        ("train_ds.manifest_filepath=null", "data has no split: train, dev, test are all empty"),
    ],
)
def test_sections(corpus: Callable[..., Corpus], override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        corpus("nemo", override)


@pytest.mark.parametrize("named", ["/etc/passwd", "../../../../../../etc/passwd", "wav/../../secret.txt"])
def test_a_text_outside_the_corpus_is_not_copied_into_ours(
    named: str, write_bytes: Write, refusal: Refusal, tmp_path: Path
) -> None:
    (tmp_path.parent / "secret.txt").write_text("swordfish")
    write_bytes("m.json", LINE.replace(b'"text": "Hello"', f'"text_filepath": "{named}"'.encode()))
    message = refusal("nemo", "train_ds.manifest_filepath=m.json")
    assert "m.json:1: its text_filepath cannot be read: " in message
    assert f"lies outside {tmp_path}; set data.root to a folder around it" in message
