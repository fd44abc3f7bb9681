"""Every reader of files from elsewhere, with a good tree for it and the files in it that a test damages."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from omegaconf import DictConfig, OmegaConf

from asr.data.audio import BadUtterance
from asr.data.corpus import Corpus
from asr.data.frame_targets import read_alignment, write_alignment
from asr.data.manifest import read_manifest
from asr.data.nbest import FORMAT, Header, NBest, read_nbest, shard_file
from asr.data.screening import read_headers
from asr.data.text_units import read_text
from asr.data.tokenizer import CharacterTokenizer, SentencePieceRecipe, load_tokenizer
from asr.parts import build, validate
from asr.runs.metrics import MetricsWriter, merge, read_rows
from asr.runs.run_folder import RunFolder
from asr.training.refusals import Refusals
from scripts.composition.compose import CONF
from tests.unit.asr.data.readers.test_every_layout import LAYOUTS, Layout

CHARACTERS = CharacterTokenizer(alphabet=" abcdehlorstwy", case="lower")


@dataclass(frozen=True)
class Reader:
    """How to make a good tree in a folder, which files of it may be damaged, and how the tree is read."""

    make: Callable[[Path], None]
    files: Sequence[str]
    read: Callable[[Path], object]


def _make_layout(layout: Layout) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for name in layout.audio:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            seconds = 2.0 if name.startswith("wav/a.") else 1.0
            shape = (round(seconds * layout.sample_rate), layout.channels)[: 1 if layout.channels == 1 else 2]
            soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(shape), layout.sample_rate)
        for name, content in layout.tables.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    return make


def _read_layout(layout: Layout) -> Callable[[Path], object]:
    node = OmegaConf.load(CONF / "data" / f"{layout.data}.yaml")

    def read(folder: Path) -> object:
        given = [f"root={folder}", f"cache={folder / 'cache'}", "on_bad=skip", *layout.overrides]
        config = OmegaConf.merge({"data": node}, {"data": OmegaConf.from_dotlist(given)})
        assert isinstance(config, DictConfig)
        validate(config)
        corpus: Corpus = build(config.data)
        try:
            return [read_manifest(manifest) for manifest in corpus.prepare().values()]
        finally:
            shutil.rmtree(folder / "cache", ignore_errors=True)

    return read


def _make_manifest(folder: Path) -> None:
    lines = [
        {
            "id": f"u{n}",
            "audio_filepath": f"wav/{n}.wav",
            "duration": 1.0,
            "text": "hello",
            "speaker": "s",
            "offset": 0.5,
        }
        for n in range(3)
    ]
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _read_manifest(folder: Path) -> object:
    found = read_manifest(folder / "m.jsonl")
    return read_headers({each.audio_filepath for each in found})


HEADER = Header(
    format=FORMAT, tokenizer=CHARACTERS.fingerprint, run="exp/a", checkpoint="step-1", weights=1, search={"n": 4},
    language_models=[], hypotheses=2, split="train", utterances=3, corpus=1, shard_utterances=2,
)  # fmt: skip


def _make_nbest(folder: Path) -> None:
    (folder / "header.json").write_text(HEADER.text())
    lists = [NBest(f"u{n}", n, [[1, 2, 3], [1, 2]], [-0.5, -1.0]).line() for n in range(3)]
    shard_file(folder, 0).write_text("".join(lists[:2]))
    shard_file(folder, 1).write_text(lists[2])


def _make_metrics(folder: Path) -> None:
    writer = MetricsWriter(folder, 0)
    for n in range(3):
        writer.write(
            {"step": n, "global_step": n, "samples": 8 * n, "epoch": 0.1, "wall_seconds": 1.0, "train/loss": 0.5}
        )
    writer.close()


def _go_on(folder: Path) -> object:
    """As a report reads the figures, and as a resume takes them back."""
    read = read_rows(RunFolder(folder).metrics_of(0)), merge(folder)
    kept = MetricsWriter(folder, 0).cut(8)
    (folder / "metrics" / "0.damaged").unlink(missing_ok=True)
    assert all(row["samples"] <= 8 for row in kept)
    return read


def _make_refusals(folder: Path) -> None:
    refusals = Refusals(folder, 0, 0)
    for n in range(3):
        refusals.add([BadUtterance(f"u{n}", Path("a.wav"), "empty")], 8 * n)


def _take_back(folder: Path) -> object:
    Refusals(folder, 0, 0).start(8)
    (folder / "refused" / "0.damaged").unlink(missing_ok=True)
    return None


def _make_alignment(folder: Path) -> None:
    classes = {f"u{n}": torch.arange(1, 5) for n in range(3)}
    write_alignment(folder / "a.safetensors", classes, frame_seconds=0.04, tokenizer=CHARACTERS)


def _make_pieces(folder: Path) -> None:
    texts = ["hello there", "yes", "seven red birds"] * 10
    SentencePieceRecipe(model=None, vocabulary_size=24, kind="bpe", case="lower").fit(texts).save(folder)


def _texts(folder: Path) -> object:
    return [len(each.text) for each in read_text(folder / "a.txt", "texts")]


READERS: dict[str, Reader] = {
    **{name: Reader(_make_layout(each), tuple(each.tables), _read_layout(each)) for name, each in LAYOUTS.items()},
    "manifest": Reader(_make_manifest, ("m.jsonl",), _read_manifest),
    "texts": Reader(lambda folder: (folder / "a.txt").write_text("one two\nthree\n") and None, ("a.txt",), _texts),
    "n-best lists": Reader(_make_nbest, ("header.json", "00000.jsonl"), lambda folder: read_nbest(folder, CHARACTERS)),
    "characters": Reader(CHARACTERS.save, ("tokenizer.json",), load_tokenizer),
    "pieces": Reader(_make_pieces, ("tokenizer.json", "tokenizer.model"), load_tokenizer),
    "metrics": Reader(_make_metrics, ("metrics/0.jsonl",), _go_on),
    "refusals": Reader(_make_refusals, ("refused/0.jsonl",), _take_back),
    "alignment": Reader(
        _make_alignment,
        ("a.safetensors",),
        lambda folder: read_alignment(folder / "a.safetensors", frame_seconds=0.01, tokenizer=CHARACTERS),
    ),
}
