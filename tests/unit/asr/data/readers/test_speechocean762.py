"""speechocean762 in both layouts gives the same utterances; speakers of dev are not in train."""

from collections.abc import Callable
from pathlib import Path

import pytest

from asr.data.corpus import Corpus
from asr.data.manifest import Utterance, read_manifest

Refusal = Callable[..., str]
Write = Callable[..., Path]

SPEAKERS = {"train": ("0001", "0002", "0005"), "test": ("0003",)}
TEXTS = ("WE CALL IT BEAR", "MARK IS GOING TO SEE ELEPHANT")


@pytest.fixture
def upstream(write_audio: Write, write_bytes: Write) -> None:
    """WAVE/SPEAKER0001/000010000.WAV with Kaldi directories, tabs between the columns."""
    for split, speakers in SPEAKERS.items():
        tables = {"wav.scp": "", "text": "", "utt2spk": ""}
        for speaker in speakers:
            for number, text in enumerate(TEXTS):
                name = f"0{speaker}{number:04d}"
                write_audio(f"WAVE/SPEAKER{speaker}/{name}.WAV")
                tables["wav.scp"] += f"{name}\tWAVE/SPEAKER{speaker}/{name}.WAV\n"
                tables["text"] += f"{name}\t{text}\n"
                tables["utt2spk"] += f"{name}\t{speaker}\n"
        for table, content in tables.items():
            write_bytes(f"{split}/{table}", content.encode())


@pytest.fixture
def tsv(write_audio: Write, write_bytes: Write) -> None:
    """audio/0001/000010000.flac with tables."""
    for split, speakers in SPEAKERS.items():
        content = "path\tutt\tspeaker\tduration\tsplit\tgender\tage\ttext\n"
        for speaker in speakers:
            for number, text in enumerate(TEXTS):
                name = f"0{speaker}{number:04d}"
                write_audio(f"audio/{speaker}/{name}.flac")
                content += f"audio/{speaker}/{name}.flac\t{name}\t{speaker}\t0.5\t{split}\tm\t6\t{text}\n"
        write_bytes(f"{split}.tsv", content.encode())


def splits(corpus: Corpus) -> dict[str, list[Utterance]]:
    return {split: read_manifest(path) for split, path in corpus.prepare().items()}


@pytest.mark.parametrize("layout", ["upstream", "tsv"])
def test_both_layouts(request: pytest.FixtureRequest, corpus: Callable[..., Corpus], layout: str) -> None:
    request.getfixturevalue(layout)
    found = splits(corpus("speechocean762", "dev_speakers=1"))
    speakers = {split: {each.speaker for each in members} for split, members in found.items()}
    assert {split: len(members) for split, members in found.items()} == {"train": 4, "dev": 2, "test": 2}
    assert speakers["train"] | speakers["dev"] == set(SPEAKERS["train"])
    assert not speakers["train"] & speakers["dev"]
    assert speakers["test"] == {"0003"}
    assert [each.text for each in found["test"]] == [text.lower() for text in TEXTS]


def test_the_seed_chooses_dev(tsv: None, corpus: Callable[..., Corpus]) -> None:
    chosen = {splits(corpus("speechocean762", "dev_speakers=1", f"seed={s}"))["dev"][0].speaker for s in range(12)}
    assert chosen == set(SPEAKERS["train"])


def test_no_dev(tsv: None, corpus: Callable[..., Corpus]) -> None:
    assert {key: len(value) for key, value in splits(corpus("speechocean762", "dev_speakers=0")).items()} == {
        "train": 6,
        "test": 2,
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"\tWE CALL IT BEAR\n", b"\n", "test.tsv:2: has 7 columns, but the header has 8"),
        (b"WE CALL IT BEAR", b"", "test.tsv:2: has no transcript"),
        (b"\t000030001\t", b"\t000030000\t", "test.tsv:3: the id '000030000' is already that of "),
        (b"\tutt\t", b"\tid\t", "test.tsv:1: the header lacks utt; it must name path, utt, speaker, text"),
        (b"0003/000030001", b"0003/000030009", "000030009.flac: there is no such file"),
    ],
    ids=["columns", "missing transcript", "duplicate", "header", "missing audio"],
)
def test_defects(tsv: None, refusal: Refusal, tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    table = tmp_path / "test.tsv"
    content = table.read_bytes()
    assert content.count(old) == 1
    table.write_bytes(content.replace(old, new))
    assert message in refusal("speechocean762", "dev_speakers=1")


def test_too_many_dev_speakers(tsv: None, refusal: Refusal) -> None:
    assert "data.dev_speakers=3 must be below the 3 speakers" in refusal("speechocean762", "dev_speakers=3")


def test_neither_layout(refusal: Refusal) -> None:
    assert "neither train/wav.scp nor train.tsv is there" in refusal("speechocean762")
