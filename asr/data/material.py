"""The training material: speech with its texts, or texts alone; the same trainer, plan and backends take both."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from asr.data.cache import SignalCache
from asr.data.corpus import Corpus
from asr.data.features import LogMel
from asr.data.folds import DIVIDED, LEFT_OUT, UNDIVIDED, Fold
from asr.data.frame_targets import SUFFIX, read_alignment
from asr.data.header_cache import cached_headers
from asr.data.manifest import MANIFEST_SUFFIXES, Utterance, read_manifest
from asr.data.pipeline import BatchHook, FrameTargets, UnitBatches, UnitDataset
from asr.data.screening import Screened, refusal_summary, screen
from asr.data.text_units import TextDataset, read_text, screen_texts
from asr.data.tokenizer import Tokenizer
from distributed.errors import UsageError

log = logging.getLogger(__name__)

SIZES = ("vocabulary_size", "feature_dimension")  # sizes of a model that its training material determines

REFUSALS_SHOWN = 5  # refusals in the log; the run's folder lists all


def manifest_name(entry: str) -> str:
    """Name of a set of speech: a split's own name, or a manifest's file name without the suffix."""
    return Path(entry).stem if Path(entry).suffix in MANIFEST_SUFFIXES else entry


def refuse_doubles(key: str, sets: Sequence[str], names: Sequence[str], splits: Sequence[str]) -> None:
    """Refuse sets of the same name, since metrics and results are stored under ``names`` and would be overwritten.

    ``splits`` are the names that no file may have.

    Raises:
        UsageError: two sets share a name, or a file has the name of one of ``splits``; ``key`` is named in the error.
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
    """The data a model is trained on: splits of utterances, and the batches made of them."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the texts that the model writes or reads."""

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes in ``SIZES`` that a model's constructor gets from the material."""

    def set_name(self, entry: str) -> str:
        """Name of the split that ``split(entry)`` returns."""

    def split(self, name: str) -> Split:
        """Load and screen a split by its name, or a file by its path."""

    def amount(self, split: Split) -> str:
        """The amount of data in a split, as text for people."""

    def dataset(
        self, split: Split, hooks: Sequence[tuple[str, BatchHook]], seed: int, cache: SignalCache
    ) -> UnitBatches:
        """Batches of a split, through the batch hooks."""


@dataclass(frozen=True, slots=True)
class Speech:
    """Speech with its transcripts. The corpus is accessed only when a split is requested."""

    corpus: Corpus
    features: LogMel
    tokenizer: Tokenizer
    alignments: Path | None  # folder with the frame targets of each split; None: the model needs none
    fold: Fold  # what of the split ``train`` is not trained on

    @property
    def sizes(self) -> dict[str, int]:
        """Size of the vocabulary and dimension of the features."""
        return {"vocabulary_size": self.tokenizer.vocabulary_size, "feature_dimension": self.features.dimension}

    def set_name(self, entry: str) -> str:
        """Name of the split; a manifest is called by its file name without the suffix."""
        return manifest_name(entry)

    @property
    def undivided(self) -> "Speech":
        """The same speech with all folds of the split ``train``."""
        return replace(self, fold=UNDIVIDED)

    def split(self, name: str) -> Split:
        """Load and screen a split of the corpus, or the manifest whose path is ``name``.

        The split ``train`` lacks the fold that is left out, which is the split ``left_out``.
        """
        if Path(name).suffix in MANIFEST_SUFFIXES:
            return self._screened(self.set_name(name), Path(name), UNDIVIDED)
        if name == LEFT_OUT and self.fold.leave_out is None:
            raise UsageError(
                f"{LEFT_OUT}: no fold is left out of {DIVIDED} here (fold.leave_out=null); choose another set, "
                "or a run that was trained with fold.leave_out=1"
            )
        return self._screened(name, self._manifest(_file_of(name)), self.fold)

    def folds(self, utterances: Sequence[Utterance]) -> list[int]:
        """The number of the fold of each of these utterances of the split ``train``."""
        number_of = self.fold.assign(read_manifest(self._manifest(DIVIDED)))
        return [number_of(each) for each in utterances]

    def _manifest(self, split: str) -> Path:
        manifests = self.corpus.prepare()
        if split not in manifests:
            raise UsageError(
                f"the corpus has no split {split!r}; it has {', '.join(manifests)} (evaluation.sets=[] trains without one)"
            )
        return manifests[split]

    def _screened(self, name: str, manifest: Path, fold: Fold) -> Split:
        utterances = read_manifest(manifest)
        # Of all folds: runs that leave out others would each write the table of headers anew.
        files = dict.fromkeys(each.audio_filepath for each in utterances)
        may_write = self.corpus.may_write(manifest.parent)
        screened = screen(
            fold.part(name, utterances),
            tokenizer=self.tokenizer,
            features=self.features,
            on_bad=self.corpus.on_bad,
            resample=self.corpus.resample,
            headers_of=lambda _: cached_headers(manifest, files, may_write=may_write),
        )
        return _report_refusals(Split(name, screened))

    def amount(self, split: Split) -> str:
        """Number of utterances and hours, as text."""
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
        file = self.alignments / f"{_file_of(split)}{SUFFIX}"
        return read_alignment(file, frame_seconds=self.features.frame_seconds, tokenizer=self.tokenizer)


def _file_of(split: str) -> str:
    """The split whose files hold an own split's utterances: what is left out is a part of ``train``."""
    return DIVIDED if split == LEFT_OUT else split


@dataclass(frozen=True, slots=True)
class TextSources:
    """Sources of texts: transcripts of a corpus, files, or both. The corpus is accessed only for transcripts."""

    corpus: Corpus
    transcripts: bool
    files: Sequence[Path]

    def training(self) -> list[Utterance]:
        """The transcripts of the split ``train``, then the texts of the files."""
        files = [utterance for path in self.files for utterance in read_text(path, "texts")]
        texts = [*(self._transcripts("train") if self.transcripts else []), *files]
        if not texts:
            raise UsageError(
                "there is no text to train on: set transcripts=true, or name files with sentences: texts=[a.txt]"
            )
        return texts

    def named(self, name: str) -> list[Utterance]:
        """The transcripts of a split of the corpus, or the texts of the file whose path is ``name``."""
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
    """Texts without speech, for language models."""

    sources: TextSources
    tokenizer: Tokenizer

    @property
    def corpus(self) -> Corpus:
        """The corpus whose transcripts are read, if any are."""
        return self.sources.corpus

    @property
    def sizes(self) -> dict[str, int]:
        """Size of the vocabulary."""
        return {"vocabulary_size": self.tokenizer.vocabulary_size}

    def set_name(self, entry: str) -> str:
        """Name of the split; a file is called by its name without the suffix."""
        return Path(entry).stem

    def split(self, name: str) -> Split:
        """The training texts under the name ``train``; otherwise a split of the corpus, or a file."""
        utterances = self.sources.training() if name == "train" else self.sources.named(name)
        screened = screen_texts(utterances, tokenizer=self.tokenizer, on_bad=self.sources.corpus.on_bad)
        return _report_refusals(Split(self.set_name(name), screened))

    def amount(self, split: Split) -> str:
        """Number of sentences and tokens (ends of sentences not counted), as text."""
        return f"{len(split.utterances)} sentences ({sum(split.screened.target_lengths)} tokens)"

    def dataset(
        self, split: Split, hooks: Sequence[tuple[str, BatchHook]], seed: int, cache: SignalCache
    ) -> TextDataset:
        """Batches of a split. Hooks that change batches are refused; ``cache`` is not used."""
        for name, hook in hooks:
            if hook.stage is not None:
                raise UsageError(
                    f"hooks=[{name}]: it changes batches of speech, and a language model has none; leave it out"
                )
        return TextDataset(utterances=split.utterances, tokenizer=self.tokenizer, seed=seed)


def _report_refusals(split: Split) -> Split:
    """Log which utterances of the split were refused, and return the split."""
    for line in refusal_summary(split.screened.refused, REFUSALS_SHOWN):
        log.warning("%s: %s", split.name, line)
    return split
