"""LibriSpeech's tree: ``root/train-clean-100/<speaker>/<chapter>/<speaker>-<chapter>-0000.flac`` beside
``<speaker>-<chapter>.trans.txt``, of which each line is an id and its text. MLS, Libri-Light's fine-tuning sets and
others that unpack to this layout are read alike.

Panayotov et al., "LibriSpeech: an ASR corpus based on public domain audio books", ICASSP 2015; openslr.org/12.
"""

from collections.abc import Iterator
from pathlib import Path

from asr.data.corpus import CorpusError
from asr.data.readers.base import Entry, TableCorpus
from asr.data.readers.tables import Defect, read_table
from asr.data.screening import OnBad
from asr.data.tokenizer import Case
from distributed.ranges import Count

AUDIO_SUFFIXES = (".flac", ".wav")  # in lower or upper case


class LibriSpeech(TableCorpus):
    """Splits made of the tree's subsets."""

    def __init__(
        self,
        *,
        root: Path,
        cache: Path,
        sample_rate: Count,
        on_bad: OnBad,
        resample: bool,
        case: Case,
        train: list[Path],
        dev: list[Path],
        test: list[Path],
    ) -> None:
        splits = {"train": train, "dev": dev, "test": test}
        super().__init__(
            root=root,
            cache=cache,
            sample_rate=sample_rate,
            on_bad=on_bad,
            resample=resample,
            case=case,
            splits=splits,
        )

    def tables(self, split: str) -> list[Path]:
        """The transcripts of every chapter."""
        return [table for subset in self.splits[split] for table in self._transcripts(split, subset)]

    def _transcripts(self, split: str, subset: Path) -> list[Path]:
        folder = self.root / subset
        found = sorted(folder.glob("*/*/[!.]*.trans.txt"))  # macOS leaves ._* files beside those it copies
        if not found:
            there = sorted(path.name for path in self.root.iterdir() if path.is_dir())
            raise CorpusError(
                f"data.{split}: no <speaker>/<chapter>/*.trans.txt below {folder}; "
                f"data.root={self.root} holds {', '.join(there[:12]) or 'no folder'}"
            )
        return found

    def entries(self, split: str) -> Iterator[Entry | Defect]:
        """Chapter by chapter; audio without a line is a defect like a line without audio."""
        for table in self.tables(split):
            yield from read_chapter(table)


def read_chapter(transcripts: Path) -> Iterator[Entry | Defect]:
    """The utterances of one ``*.trans.txt``; the folder above the chapter's is the speaker."""
    table = read_table(transcripts)
    yield from table.defects
    files = transcripts.parent.glob("[!.]*")
    audio = {file.stem: file for file in files if file.suffix.lower() in AUDIO_SUFFIXES}
    for name, row in table.rows.items():
        if name in audio:
            yield Entry(row.where, name, audio[name], row.value, transcripts.parent.parent.name)
        else:
            yield Defect(row.where, name, f"there is no {name}.flac beside it; copy the file or remove the line")
    for name in sorted(audio.keys() - table.rows.keys()):
        yield Defect(str(audio[name]), name, f"has no transcript in {transcripts.name}; add a line or remove the file")
