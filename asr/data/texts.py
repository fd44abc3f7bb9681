"""Sentences for synthetic speech from the user's own texts, unchanged or recombined into new ones.

Recombining is a walk through a bigram model: after each word the sentence may go on as another sentence of the texts
does after the same word. A few hundred sentences thus give a great many of the same words with the same neighbours,
which helps a recogniser for a domain with few recordings.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from asr.data.corpus import CorpusError
from asr.data.manifest import read_manifest
from asr.foreign.files import TEXT, ForeignError, read_text
from distributed.ranges import Probability

_ATTEMPTS = 100  # attempts to draw a walk no longer than the longest sentence of the texts


class Sentences:
    """Draws sentences from texts; objects with the same sentences draw the same."""

    def __init__(self, sentences: Sequence[str], recombine: Probability) -> None:
        """``recombine``: probability, after each word, of going on elsewhere; 0 draws the sentences as they stand."""
        self.words = [sentence.lower().split() for sentence in sentences]
        self.recombine = recombine
        self._longest = max(len(words) for words in self.words)
        self._places: dict[str, list[tuple[int, int]]] = {}  # all places of each word: (sentence, position)
        for number, words in enumerate(self.words):
            for position, word in enumerate(words):
                self._places.setdefault(word, []).append((number, position))

    def draw(self, generator: torch.Generator) -> str:
        """One sentence, in lower case, no longer in words than the longest of the texts."""
        for _ in range(_ATTEMPTS):
            walk = self._walk(generator)
            if len(walk) <= self._longest:
                return " ".join(walk)
        return " ".join(walk[: self._longest])

    def _walk(self, generator: torch.Generator) -> list[str]:
        walk: list[str] = []
        sentence, position = _integer(generator, len(self.words)), 0
        while position < len(self.words[sentence]) and len(walk) <= self._longest:
            word = self.words[sentence][position]
            walk.append(word)
            if float(torch.rand((), generator=generator)) < self.recombine:
                places = self._places[word]
                sentence, position = places[_integer(generator, len(places))]
            position += 1
        return walk


def read_sentences(path: Path) -> list[str]:
    """The sentences of a text file, one a line, or the texts of a manifest (``.jsonl``); empty ones are skipped.

    Raises:
        CorpusError: the file cannot be read, or holds no sentence.
        ManifestError: a line of a manifest is not an utterance.
    """
    if path.suffix == ".jsonl":
        lines = [utterance.text for utterance in read_manifest(path)]
    else:
        lines = read_lines(path, "data.texts")
    sentences = [line.strip() for line in lines if line.strip()]
    if not sentences:
        raise CorpusError(f"data.texts={path}: there is no sentence in it; write one a line")
    return sentences


def read_lines(path: Path, key: str) -> list[str]:
    """The lines of a text file; ``key`` is the configuration key that errors name.

    Raises:
        CorpusError: the file cannot be read.
    """
    try:
        return read_text(path, TEXT).splitlines()
    except ForeignError as error:
        raise CorpusError(f"{key}={error}") from None


def _integer(generator: torch.Generator, below: int) -> int:
    return int(torch.randint(below, (), generator=generator))
