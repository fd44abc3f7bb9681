"""What models are trained on: speech with its texts, or texts alone, which the same trainer, plan and backends take."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from asr.data.cache import SignalCache
from asr.data.corpus import Corpus
from asr.data.features import LogMel
from asr.data.frame_targets import SUFFIX, read_alignment
from asr.data.manifest import MANIFEST_SUFFIXES, Utterance, read_manifest
from asr.data.pipeline import BatchHook, FrameTargets, UnitBatches, UnitDataset
from asr.data.screening import Screened, refusal_summary, screen
from asr.data.text_units import TextDataset, read_text, screen_texts
from asr.data.tokenizer import Tokenizer
from distributed.errors import UsageError

log = logging.getLogger(__name__)

SIZES = ("vocabulary_size", "feature_dimension")  # of a model, that what it is trained on decides

REFUSALS_SHOWN = 5  # in the log; all are listed in the run's folder


def manifest_name(entry: str) -> str:
    """What a set of speech is called: a split by its name, a manifest by its file's, without the suffix."""
    return Path(entry).stem if Path(entry).suffix in MANIFEST_SUFFIXES else entry


def refuse_doubles(key: str, sets: Sequence[str], names: Sequence[str], splits: Sequence[str]) -> None:
    """Figures and results of sets lie under their ``names``: refuse those that would be taken for another one's.

    ``splits`` are names that no file may have.

    Raises:
        UsageError: two sets have the same name, or a file that of one of ``splits``; ``key`` is what the error calls them.
    """
    taken: set[str] = set()
    for entry, name in sorted(zip(sets, names, strict=True), key=lambda pair: pair[0] != pair[1]):  # splits first
        if name in taken or (name != entry and name in splits):
            remedy = "name each set once" if name == entry else "rename the file"
            raise UsageError(f"{key}: {entry} would overwrite the results of another set called {name}; {remedy}")
        taken.add(name)


@dataclass(frozen=True, slots=True)
class Split:
    """The usable utterances of one split, with what the batch plan needs to know of them."""

    name: str
    screened: Screened

    @property
    def utterances(self) -> Sequence[Utterance]:
        """Usable utterances, in the manifest's order."""
        return self.screened.usable


class Material(Protocol):
    """What a model is trained on: splits of utterances, and the batches that they make."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What the model writes, or reads."""

    @property
    def sizes(self) -> dict[str, int]:
        """What a model's constructor is told of the material."""

    def set_name(self, entry: str) -> str:
        """What the split is called that ``split(entry)`` gives."""

    def split(self, name: str) -> Split:
        """A split by its name, or a file by its path, screened."""

    def amount(self, split: Split) -> str:
        """How much a split holds, in words."""

    def dataset(
        self, split: Split, hooks: Sequence[tuple[str, BatchHook]], seed: int, cache: SignalCache
    ) -> UnitBatches:
        """Batches of a split, through the batch hooks."""


@dataclass(frozen=True, slots=True)
class Speech:
    """What a model reads and writes. The corpus is looked at only when a split is asked for."""

    corpus: Corpus
    features: LogMel
    tokenizer: Tokenizer
    alignments: Path | None  # folder with the frame targets of each split; None: the model needs none

    @property
    def sizes(self) -> dict[str, int]:
        """Of what comes in and of what goes out."""
        return {"vocabulary_size": self.tokenizer.vocabulary_size, "feature_dimension": self.features.dimension}

    def set_name(self, entry: str) -> str:
        """That of a manifest is its file's."""
        return manifest_name(entry)

    def split(self, name: str) -> Split:
        """A split of the corpus, or the manifest that ``name`` is the path of, screened."""
        if Path(name).suffix in MANIFEST_SUFFIXES:
            return self._screened(self.set_name(name), Path(name))
        manifests = self.corpus.prepare()
        if name not in manifests:
            raise UsageError(
                f"the corpus has no split {name!r}; it has {', '.join(manifests)} (evaluation.sets=[] trains without one)"
            )
        return self._screened(name, manifests[name])

    def _screened(self, name: str, manifest: Path) -> Split:
        utterances = read_manifest(manifest)
        screened = screen(
            utterances,
            tokenizer=self.tokenizer,
            features=self.features,
            on_bad=self.corpus.on_bad,
            resample=self.corpus.resample,
        )
        return _told(Split(name, screened))

    def amount(self, split: Split) -> str:
        """Utterances and hours."""
        seconds = sum(utterance.duration for utterance in split.utterances)
        return f"{len(split.utterances)} utterances ({seconds / 3600:.2f} h)"

    def dataset(
        self, split: Split, hooks: Sequence[tuple[str, BatchHook]], seed: int, cache: SignalCache
    ) -> UnitDataset:
        """Batches of a split, through the batch hooks."""
        return UnitDataset(
            utterances=split.utterances,
            tokenizer=self.tokenizer,
            features=self.features,
            hooks=hooks,
            seed=seed,
            on_bad=self.corpus.on_bad,
            resample=self.corpus.resample,
            cache=cache,
            frame_targets=self._frame_targets(split.name),
        )

    def _frame_targets(self, split: str) -> FrameTargets | None:
        if self.alignments is None:
            return None
        file = self.alignments / f"{split}{SUFFIX}"
        return read_alignment(file, frame_seconds=self.features.frame_seconds, tokenizer=self.tokenizer)


@dataclass(frozen=True, slots=True)
class TextSources:
    """Where texts come from: the transcripts of a corpus, files, or both. The corpus is looked at only for transcripts."""

    corpus: Corpus
    transcripts: bool
    files: Sequence[Path]

    def training(self) -> list[Utterance]:
        """The transcripts of the split train, then the files'."""
        files = [utterance for path in self.files for utterance in read_text(path, "texts")]
        texts = [*(self._transcripts("train") if self.transcripts else []), *files]
        if not texts:
            raise UsageError(
                "there is no text to train on: set transcripts=true, or name files with sentences: texts=[a.txt]"
            )
        return texts

    def named(self, name: str) -> list[Utterance]:
        """The transcripts of a split of the corpus, or the texts of the file that ``name`` is the path of."""
        if Path(name).suffix:
            return read_text(Path(name), "evaluation.sets")
        if not self.transcripts:
            raise UsageError(
                f"evaluation.sets=[{name}]: with transcripts=false no corpus is read; name a file with sentences"
            )
        return self._transcripts(name)

    def _transcripts(self, split: str) -> list[Utterance]:
        manifests = self.corpus.prepare()
        if split not in manifests:
            raise UsageError(
                f"the corpus has no split {split!r}; it has {', '.join(manifests)}, and files have a suffix"
            )
        return read_manifest(manifests[split])


@dataclass(frozen=True, slots=True)
class Text:
    """What a language model reads."""

    sources: TextSources
    tokenizer: Tokenizer

    @property
    def sizes(self) -> dict[str, int]:
        """Of the tokens."""
        return {"vocabulary_size": self.tokenizer.vocabulary_size}

    def set_name(self, entry: str) -> str:
        """That of a file is its own, without the suffix."""
        return Path(entry).stem

    def split(self, name: str) -> Split:
        """The training texts under the name ``train``; otherwise a split of the corpus, or a file."""
        utterances = self.sources.training() if name == "train" else self.sources.named(name)
        screened = screen_texts(utterances, tokenizer=self.tokenizer, on_bad=self.sources.corpus.on_bad)
        return _told(Split(self.set_name(name), screened))

    def amount(self, split: Split) -> str:
        """Sentences and tokens, without their ends."""
        return f"{len(split.utterances)} sentences ({sum(split.screened.target_lengths)} tokens)"

    def dataset(
        self, split: Split, hooks: Sequence[tuple[str, BatchHook]], seed: int, cache: SignalCache
    ) -> TextDataset:
        """Batches of a split. No hook may want to change them; there is nothing worth keeping in ``cache``."""
        for name, hook in hooks:
            if hook.stage is not None:
                raise UsageError(
                    f"hooks=[{name}]: it changes batches of speech, and a language model has none; leave it out"
                )
        return TextDataset(utterances=split.utterances, tokenizer=self.tokenizer, seed=seed)


def _told(split: Split) -> Split:
    """The split; what was refused of it is said."""
    for line in refusal_summary(split.screened.refused, REFUSALS_SHOWN):
        log.warning("%s: %s", split.name, line)
    return split
