"""speechocean762: English sentences read by non-native speakers, half of them children; 16 kHz.

Two layouts are read: upstream's, Kaldi data directories ``train/`` and ``test/`` whose wav.scp names files below
``WAVE/``; and tables ``train.tsv`` and ``test.tsv`` with a header and at least the columns path, utt, speaker and text.
The corpus has no development set: some speakers of its training set, drawn at random, are dev.

Zhang et al., "speechocean762: An Open-Source Non-native English Speech Corpus For Pronunciation Assessment",
Interspeech 2021; openslr.org/101.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from asr.data.batch import keyed_seed
from asr.data.corpus import CorpusError
from asr.data.readers.base import Entry, TableCorpus
from asr.data.readers.kaldi import data_directory, read_data_directory
from asr.data.readers.tables import Defect, read_lines
from distributed.ranges import Natural

COLUMNS = ("path", "utt", "speaker", "text")


@dataclass(kw_only=True, eq=False)
class Speechocean762(TableCorpus):
    """Upstream's test set, and its training set without the speakers of dev."""

    dev_speakers: Natural
    seed: Natural

    def parts(self) -> dict[str, list[Path]]:
        return {"train": [Path("train")], "dev": [Path("train")] if self.dev_speakers else [], "test": [Path("test")]}

    def own_parameters(self) -> dict[str, object]:
        return {"dev_speakers": self.dev_speakers, "seed": self.seed}

    def tables(self, split: str) -> list[Path]:
        (part,) = self.splits[split]
        table, folder = self.root / f"{part}.tsv", self.root / part
        if not table.is_file() and not folder.is_dir():
            raise CorpusError(
                f"data.root={self.root}: neither {part}/wav.scp nor {part}.tsv is there; set data.root= to a copy of "
                "github.com/jimbozhang/speechocean762"
            )
        return [table] if table.is_file() else data_directory(folder, "data.root")

    def entries(self, split: str) -> Iterator[Entry | Defect]:
        """The entries of the split's speakers; defects, which have no speaker, belong to train and test."""
        (part,) = self.splits[split]
        tables = self.tables(split)
        read = read_tsv(tables[0], self.root) if len(tables) == 1 else read_data_directory(self.root / part, self.root)
        found = list(read)
        if split == "test" or not self.dev_speakers:
            yield from found
            return
        dev = draw_speakers({each.speaker for each in found if isinstance(each, Entry)}, self.dev_speakers, self.seed)
        for each in found:
            if (split == "dev") == (isinstance(each, Entry) and each.speaker in dev):
                yield each


def draw_speakers(speakers: set[str], number: int, seed: int) -> set[str]:
    """Draw ``number`` of the speakers, a function of the set of speakers and the seed alone.

    Raises:
        CorpusError: none would be left for training.
    """
    if number >= len(speakers):
        raise CorpusError(f"data.dev_speakers={number} must be below the {len(speakers)} speakers of the training set")
    generator = torch.Generator().manual_seed(keyed_seed(seed, "dev speakers"))
    order = torch.randperm(len(speakers), generator=generator).tolist()
    return {sorted(speakers)[index] for index in order[:number]}


def read_tsv(table: Path, root: Path) -> Iterator[Entry | Defect]:
    """The utterances of a tab-separated table with a header; paths are relative to ``root``.

    Raises:
        CorpusError: the header lacks a column.
    """
    lines = read_lines(table)
    where, header = next(lines, (str(table), ""))
    columns = header.split("\t")
    if missing := [name for name in COLUMNS if name not in columns]:
        raise CorpusError(f"{where}: the header lacks {', '.join(missing)}; it must name {', '.join(COLUMNS)}")
    for where, line in lines:
        cells = line.split("\t")
        row = dict(zip(columns, cells, strict=False))
        if len(cells) != len(columns):
            reason = f"has {len(cells)} columns, but the header has {len(columns)}; correct the line"
            yield Defect(where, row.get("utt", ""), reason)
        else:
            yield Entry(where, row["utt"], root / row["path"], row["text"], row["speaker"])
