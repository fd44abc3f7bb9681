"""Statistics of a manifest: amount of speech, number of speakers, speed, and the utterances that cannot be used.

Only headers are read, as in screening before training; the features of a run are not needed.
"""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asr.data.audio import BadUtterance
from asr.data.manifest import Utterance
from asr.data.screening import Refusal, count_targets, read_headers, refuse_duplicate, usable_header
from asr.data.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Summary:
    """Statistics of the usable utterances of a split; durations are 0 if there are none."""

    utterances: int
    hours: float
    speakers: int
    shortest_seconds: float
    median_seconds: float
    longest_seconds: float
    characters: int  # spaces included
    alphabet: str  # every character that occurs, sorted
    tokens: int | None  # None: no tokenizer was given

    @property
    def characters_per_second(self) -> float:
        """Speed of the speech; a value far from those of other splits suggests that texts and audio do not match."""
        return self._per_second(self.characters)

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens that the model must write per second; a model of one label per frame needs a higher frame rate."""
        return None if self.tokens is None else self._per_second(self.tokens)

    def _per_second(self, count: int) -> float:
        return count / (3600 * self.hours) if self.hours else 0.0


def examine(
    utterances: Sequence[Utterance], sample_rate: int, tokenizer: Tokenizer | None, *, resample: bool
) -> tuple[Summary, list[Refusal]]:
    """Statistics of the usable utterances, and the refusals; together they cover all of ``utterances``.

    Texts are checked against the ``tokenizer`` if there is one; files may have another rate under ``resample``.
    """
    headers = read_headers({utterance.audio_filepath for utterance in utterances})
    usable: list[Utterance] = []
    refused: list[Refusal] = []
    tokens, file_of = 0, dict[str, Path]()
    for utterance in utterances:
        try:
            refuse_duplicate(utterance, file_of)
            usable_header(utterance, headers[utterance.audio_filepath], sample_rate, resample=resample)
            tokens += 0 if tokenizer is None else count_targets(utterance, tokenizer)
        except BadUtterance as bad:
            refused.append(Refusal(bad.utterance_id, bad.file, bad.reason))
            continue
        file_of[utterance.id] = utterance.audio_filepath
        usable.append(utterance)
    return summarise(usable, None if tokenizer is None else tokens), refused


def shared_recordings(splits: Mapping[str, Sequence[Utterance]]) -> dict[tuple[str, str], list[str]]:
    """The ids (in the first split) of recordings that two splits share, on which a test would score training data."""
    found = {}
    for one, other in itertools.combinations(splits, 2):
        heard = {_recording(utterance) for utterance in splits[other]}
        if both := [utterance.id for utterance in splits[one] if _recording(utterance) in heard]:
            found[one, other] = both
    return found


def _recording(utterance: Utterance) -> tuple[Path, float | None, int | None]:
    return utterance.audio_filepath, utterance.offset, utterance.channel


def summarise(utterances: Sequence[Utterance], tokens: int | None) -> Summary:
    """Statistics of utterances whose texts have ``tokens`` tokens in all."""
    durations = [utterance.duration for utterance in utterances] or [0.0]
    texts = [utterance.text for utterance in utterances]
    return Summary(
        utterances=len(utterances),
        hours=sum(durations) / 3600,
        speakers=len({utterance.speaker for utterance in utterances} - {""}),
        shortest_seconds=min(durations),
        median_seconds=statistics.median(durations),
        longest_seconds=max(durations),
        characters=sum(map(len, texts)),
        alphabet="".join(sorted(set().union(*texts))),
        tokens=tokens,
    )
