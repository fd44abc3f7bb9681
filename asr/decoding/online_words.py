"""Words of a recording while it is heard: those before the newest are as they stay, the newest may still grow.

A word begins at the state at which the search emitted its first token, and ends with that of its last. It was emitted as
soon as the state of its last token could be computed: the model's own delay, without the time of the computation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from asr.data.tokenizer import Tokenizer
from asr.decoding.forced_alignment import word_ranges
from asr.decoding.search import Emitted, Hypothesis
from asr.decoding.timed_words import Word, timed_words


@dataclass(frozen=True, slots=True)
class StreamedWord(Word):
    """A word of a stream."""

    emitted: float  # seconds of the recording that had been heard when its last token was known


class OnlineWords:
    """Text and words of the tokens so far."""

    def __init__(self, tokenizer: Tokenizer, state_seconds: float) -> None:
        self.tokenizer = tokenizer
        self.state_seconds = state_seconds
        self.text = ""
        """As the tokenizer writes it."""
        self._tokens: list[int] = []
        self._closed: list[StreamedWord] = []
        self._newest: list[StreamedWord] = []  # one, or none before the first
        self._open: list[tuple[Emitted, float]] = []  # the tokens from the newest word on, and when they were emitted

    @property
    def words(self) -> list[StreamedWord]:
        """All words so far."""
        return [*self._closed, *self._newest]

    def add(self, emitted: Sequence[Emitted], seconds: float) -> None:
        """Take the tokens that were found when ``seconds`` of the recording had been heard."""
        if not emitted:
            return
        self._tokens += [each.token for each in emitted]
        self.text = self.tokenizer.decode(self._tokens)
        self._open += [(each, seconds) for each in emitted]
        found = [each for each, _ in self._open]
        tokens = [each.token for each in found]
        words = timed_words(
            Hypothesis(tokens, 0.0, [each.frame for each in found]), None, [each.confidence for each in found],
            self.tokenizer, state_seconds=self.state_seconds, offset_seconds=0.0, length_seconds=seconds,
        )  # fmt: skip
        ranges = word_ranges(tokens, self.tokenizer.symbols)
        known = [
            StreamedWord(word.text, word.start, word.end, word.confidence, self._open[end - 1][1])
            for word, (_, end) in zip(words, ranges, strict=True)
        ]
        self._closed += known[:-1]
        self._newest = known[-1:]
        self._open = self._open[ranges[-1][0] if ranges else 0 :]
