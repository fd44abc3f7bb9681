"""LibriSpeech's tree: ``root/train-clean-100/<speaker>/<chapter>/<speaker>-<chapter>-0000.flac`` beside
``<speaker>-<chapter>.trans.txt``, of which each line is an id and its text. Libri-Light's fine-tuning sets and others
that unpack to this layout are read alike: ``1h/0/clean`` is a subset then. The audio may be of any format that libsndfile
reads, as after a conversion to Opus.

Panayotov et al., "LibriSpeech: an ASR corpus based on public domain audio books", ICASSP 2015; openslr.org/12.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from asr.data.audio import audio_suffixes
from asr.data.corpus import CorpusError
from asr.data.readers.base import Entry, NamedSplits
from asr.data.readers.tables import Defect, read_table


@dataclass(kw_only=True, eq=False)
class LibriSpeech(NamedSplits):
    """Splits made of the tree's subsets."""

    def tables(self, split: str) -> list[Path]:
        """The transcripts of every chapter."""
        return [table for subset in self.splits[split] for table in self._transcripts(split, subset)]

    def _transcripts(self, split: str, subset: Path) -> list[Path]:
        folder = self.root / subset
        found = sorted(folder.glob("*/*/[!.]*.trans.txt"))
        if not found:
            there = sorted(path.name for path in self.root.iterdir() if path.is_dir())
            raise CorpusError(
                f"data.{split}: no <speaker>/<chapter>/*.trans.txt below {folder}; "
                f"data.root={self.root} holds {', '.join(there[:12]) or 'no folder'}"
            )
        return found

    def entries(self, split: str) -> Iterator[Entry | Defect]:
        """The entries, chapter by chapter; audio without a transcript and a transcript without audio are defects."""
        tables = self.tables(split)
        for table in tables:
            yield from read_chapter(table)
        chapters = {table.parent for table in tables}
        for subset in self.splits[split]:
            for chapter in sorted((self.root / subset).glob("*/*/")):
                if chapter not in chapters:
                    yield from chapter_without_transcripts(chapter)


def chapter_without_transcripts(chapter: Path) -> Iterator[Defect]:
    """The defects of a chapter whose file of transcripts is missing: one for each audio file."""
    for name, files in sorted(_audio(chapter).items()):
        yield Defect(
            str(files[0]), name, "has no transcript: there is no *.trans.txt beside it; copy that or remove the file"
        )


def _audio(chapter: Path) -> dict[str, list[Path]]:
    """The audio files of each name; a name should have exactly one."""
    named: dict[str, list[Path]] = {}
    for file in sorted(chapter.glob("[!.]*")):  # macOS leaves ._* files beside those it copies
        if file.suffix.lower() in audio_suffixes():
            named.setdefault(file.stem, []).append(file)
    return named


def read_chapter(transcripts: Path) -> Iterator[Entry | Defect]:
    """The utterances of one ``*.trans.txt``; the folder above the chapter's is the speaker."""
    table = read_table(transcripts)
    yield from table.defects
    audio = _audio(transcripts.parent)
    for name, row in table.rows.items():
        files = audio.get(name, [])
        if len(files) == 1:
            yield Entry(row.where, name, files[0], row.value, transcripts.parent.parent.name)
        elif files:
            twins = " and ".join(file.name for file in files)
            yield Defect(row.where, name, f"{twins} lie beside it, and which is meant is not told; remove all but one")
        else:
            yield Defect(
                row.where,
                name,
                f"there is no {name}.flac beside it, nor one of another format; copy it or remove the line",
            )
    for name in sorted(audio.keys() - table.rows.keys()):
        yield Defect(
            str(audio[name][0]), name, f"has no transcript in {transcripts.name}; add a line or remove the file"
        )
