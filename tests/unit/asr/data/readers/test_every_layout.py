"""Every defect found in the wild, in every layout in which it can occur: read alike where nothing is lost, else refused.

A layout writes the same utterances, ``one`` and ``two`` of speaker s1 of one second each, as its tables have them; the
texts are upper case. Tests damage the tables, byte for byte.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from asr.data.manifest import Utterance

Write = Callable[..., Path]

CHAPTER = "train-clean-100/s1/c1"
NAMED = ("train=[data/train]", "dev=[]", "test=[]")
TEXTS = {"s1-c1-0": b"HELLO THERE", "s1-c1-1": b"YES"}
ONE, TWO = TEXTS


def lines(template: str, **columns: Sequence[Any]) -> bytes:
    """A line for each utterance."""
    rows = zip(TEXTS, TEXTS.values(), *columns.values(), strict=True)
    return b"".join(
        (template.format(id=name, text=text.decode(), **dict(zip(columns, rest, strict=True))) + "\n").encode()
        for name, text, *rest in rows
    )


def json_lines(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@dataclass(frozen=True)
class Layout:
    """How a corpus lies on disk, and how a line of it is damaged."""

    data: str  # data=
    overrides: tuple[str, ...]
    audio: tuple[str, ...]
    tables: dict[str, bytes]
    duplicate: tuple[str, bytes, bytes]  # table, what is replaced, by what: the id or file of the second is the first's
    negative: tuple[str, bytes, bytes] | None  # None: without segments there is no negative one
    sample_rate: int = 16000
    channels: int = 1


def lhotse_cut(name: str, text: str, start: float) -> dict[str, Any]:
    sources = [{"type": "file", "channels": [0], "source": "wav/a.wav"}]
    recording = {
        "id": "a", "sources": sources, "sampling_rate": 16000, "num_samples": 32000, "duration": 2.0, "channel_ids": [0],
    }  # fmt: skip
    spoken = {
        "id": name,
        "recording_id": "a",
        "start": 0.0,
        "duration": 1.0,
        "channel": 0,
        "text": text,
        "speaker": "s1",
    }
    return {
        "id": name, "start": start, "duration": 1.0, "channel": 0, "supervisions": [spoken], "recording": recording,
        "type": "MonoCut",
    }  # fmt: skip


KALDI = {  # segments of one recording
    "data/train/text": lines("{id} {text}"),
    "data/train/utt2spk": lines("{id} s1"),
    "data/train/segments": lines("{id} a {start} {end}", start=("0.0", "1.0"), end=("1.0", "2.0")),
}
SWITCHBOARD = {
    "data/train/wav.scp": b"a-A wav/a.wav\na-B wav/a.wav\n",
    "data/train/segments": lines("{id} a-{side} {start} {end}", side="AB", start=("0.0", "1.0"), end=("1.0", "2.0")),
    "data/train/reco2file_and_channel": b"a-A a A\na-B a B\n",
}
LAYOUTS = {
    "librispeech": Layout(
        "librispeech",
        ("train=[train-clean-100]", "dev=[]", "test=[]"),
        tuple(f"{CHAPTER}/{name}.flac" for name in TEXTS),
        {f"{CHAPTER}/s1-c1.trans.txt": lines("{id} {text}")},
        (f"{CHAPTER}/s1-c1.trans.txt", TWO.encode() + b" ", ONE.encode() + b" "),
        None,
    ),
    "kaldi": Layout(
        "kaldi",
        NAMED,
        tuple(f"wav/{name}.wav" for name in TEXTS),
        {
            "data/train/wav.scp": lines("{id} wav/{id}.wav"),
            "data/train/text": KALDI["data/train/text"],
            "data/train/utt2spk": KALDI["data/train/utt2spk"],
        },
        ("data/train/wav.scp", TWO.encode() + b" ", ONE.encode() + b" "),
        None,
    ),
    "kaldi segments": Layout(
        "kaldi",
        NAMED,
        ("wav/a.wav",),
        KALDI | {"data/train/wav.scp": b"a wav/a.wav\n"},
        ("data/train/segments", TWO.encode() + b" ", ONE.encode() + b" "),
        ("data/train/segments", b" a 1.0 2.0", b" a -1.0 2.0"),
    ),
    "switchboard": Layout(
        "switchboard",
        NAMED,
        ("wav/a.wav",),
        KALDI | SWITCHBOARD,
        ("data/train/segments", TWO.encode() + b" ", ONE.encode() + b" "),
        ("data/train/segments", b" a-B 1.0 2.0", b" a-B -1.0 2.0"),
        sample_rate=8000,
        channels=2,
    ),
    "nemo": Layout(
        "nemo",
        ("train_ds.manifest_filepath=train.json",),
        ("wav/a.wav",),
        {
            "train.json": lines(
                '{{"id": "{id}", "audio_filepath": "wav/a.wav", "offset": {start}, "duration": 1.0, "text": "{text}"}}',
                start=(0.0, 1.0),
            )
        },
        ("train.json", TWO.encode(), ONE.encode()),
        ("train.json", b'"offset": 1.0', b'"offset": -1.0'),
    ),
    "lhotse cuts": Layout(
        "lhotse",
        ("train=[cuts_train.jsonl]", "dev=[]", "test=[]"),
        ("wav/a.wav",),
        {"cuts_train.jsonl": json_lines(lhotse_cut(ONE, "HELLO THERE", 0.0), lhotse_cut(TWO, "YES", 1.0))},
        ("cuts_train.jsonl", TWO.encode(), ONE.encode()),
        ("cuts_train.jsonl", b'"start": 1.0', b'"start": -1.0'),
    ),
    "lhotse supervisions": Layout(
        "lhotse",
        ("train=[supervisions_train.jsonl]", "dev=[]", "test=[]"),
        ("wav/a.wav",),
        {
            "recordings_train.jsonl": json_lines(lhotse_cut(ONE, "", 0)["recording"]),
            "supervisions_train.jsonl": json_lines(
                lhotse_cut(ONE, "HELLO THERE", 0)["supervisions"][0],
                lhotse_cut(TWO, "YES", 0)["supervisions"][0] | {"start": 1.0},
            ),
        },
        ("supervisions_train.jsonl", TWO.encode(), ONE.encode()),
        ("supervisions_train.jsonl", b'"start": 1.0', b'"start": -1.0'),
    ),
    "speechocean762": Layout(
        "speechocean762",
        ("dev_speakers=0",),
        tuple(f"WAVE/SPEAKERs1/{name}.WAV" for name in TEXTS),
        {
            f"{split}/{table}": lines(template)
            for split in ("train", "test")
            for table, template in (
                ("wav.scp", "{id}\tWAVE/SPEAKERs1/{id}.WAV"),
                ("text", "{id}\t{text}"),
                ("utt2spk", "{id} s1"),
            )
        },
        ("train/wav.scp", TWO.encode() + b"\t", ONE.encode() + b"\t"),
        None,
    ),
    "speechocean762 tsv": Layout(
        "speechocean762",
        ("dev_speakers=0",),
        tuple(f"audio/{name}.flac" for name in TEXTS),
        {
            f"{split}.tsv": b"path\tutt\tspeaker\ttext\n" + lines("audio/{id}.flac\t{id}\ts1\t{text}")
            for split in ("train", "test")
        },
        ("train.tsv", b"\t" + TWO.encode() + b"\t", b"\t" + ONE.encode() + b"\t"),
        None,
    ),
}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]


@pytest.fixture
def write_tree(write_audio: Write, write_bytes: Write) -> Callable[..., None]:
    """Write a layout's audio and tables, these changed one by one."""

    def write(layout: Layout, change: Callable[[bytes], bytes] = lambda content: content) -> None:
        for name in layout.audio:
            seconds = 2.0 if name.startswith("wav/a.") else 1.0
            write_audio(name, seconds, sample_rate=layout.sample_rate, channels=layout.channels)
        for name, content in layout.tables.items():
            write_bytes(name, change(content))

    return write


@pytest.fixture
def read(utterances: Callable[..., list[Utterance]]) -> Callable[..., list[tuple[str, str, float]]]:
    """Id, text and duration of what is read."""

    def found(layout: Layout, *overrides: str) -> list[tuple[str, str, float]]:
        made = utterances(layout.data, *layout.overrides, *overrides)
        return [(each.id, each.text, each.duration) for each in made]

    return found


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content,
        lambda content: content.replace(b"\n", b"\r\n"),
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: content.rstrip(b"\n"),
        lambda content: b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n").rstrip(b"\r\n"),
        lambda content: content.replace(b"HELLO THERE", b"hello there").replace(b"YES", b"Yes"),
    ],
    ids=["plain", "CRLF", "byte order mark", "no newline at the end", "all three", "lower case"],
)
def test_what_loses_nothing_is_read_alike(
    layout: Layout,
    change: Callable[[bytes], bytes],
    write_tree: Callable[..., None],
    read: Callable[..., list[tuple[str, str, float]]],
) -> None:
    write_tree(layout, change)
    assert read(layout) == [(ONE, "hello there", 1.0), (TWO, "yes", 1.0)]


def test_texts_in_upper_case(
    layout: Layout, write_tree: Callable[..., None], read: Callable[..., list[tuple[str, str, float]]]
) -> None:
    write_tree(layout, lambda content: content.replace(b"HELLO", b"Hello"))
    assert [text for _, text, _ in read(layout, "case=upper")] == ["HELLO THERE", "YES"]
    assert [text for _, text, _ in read(layout, "case=keep")] == ["Hello THERE", "YES"]


def check_refused(refusal: Callable[..., str], layout: Layout, message: str, *overrides: str) -> None:
    refused = refusal(layout.data, *layout.overrides, *overrides)
    assert message in refused
    assert "data.on_bad=skip leaves them out]" in refused


def test_a_missing_transcript(layout: Layout, write_tree: Callable[..., None], refusal: Callable[..., str]) -> None:
    write_tree(layout, lambda content: content.replace(b"YES", b""))
    check_refused(refusal, layout, f"has no transcript; write its text or remove the line (utterance {TWO})")


def test_a_duplicate_id(
    layout: Layout, write_tree: Callable[..., None], write_bytes: Write, refusal: Callable[..., str]
) -> None:
    write_tree(layout)
    table, old, new = layout.duplicate
    assert layout.tables[table].count(old) >= 1
    write_bytes(table, layout.tables[table].replace(old, new))
    check_refused(refusal, layout, f"the id '{ONE}' is already that of ")


def test_a_wrong_rate(layout: Layout, write_tree: Callable[..., None], refusal: Callable[..., str]) -> None:
    write_tree(layout)
    message = f"is sampled at {layout.sample_rate} Hz, but data.sample_rate is 11025 Hz; "
    check_refused(refusal, layout, message, "sample_rate=11025")


def test_missing_audio(
    layout: Layout, write_tree: Callable[..., None], refusal: Callable[..., str], tmp_path: Path
) -> None:
    write_tree(layout)
    (tmp_path / layout.audio[-1]).unlink()
    message = "there is no s1-c1-1.flac beside it" if layout.data == "librispeech" else "there is no such file"
    check_refused(refusal, layout, message)


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.negative is not None])
def test_a_negative_segment(
    name: str, write_tree: Callable[..., None], write_bytes: Write, refusal: Callable[..., str]
) -> None:
    layout = LAYOUTS[name]
    write_tree(layout)
    assert layout.negative is not None
    table, old, new = layout.negative
    assert layout.tables[table].count(old) == 1
    write_bytes(table, layout.tables[table].replace(old, new))
    check_refused(refusal, layout, "the segment from -1 s to ")


def test_with_skip_the_rest_is_read(
    layout: Layout, write_tree: Callable[..., None], read: Callable[..., list[tuple[str, str, float]]]
) -> None:
    write_tree(layout, lambda content: content.replace(b"YES", b""))
    assert read(layout, "on_bad=skip") == [(ONE, "hello there", 1.0)]
