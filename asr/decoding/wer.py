"""Word and character errors, counted on a minimum edit distance alignment by kaldialign.

Other aligners agree on the total, but may split ties differently into insertions, deletions and substitutions.
A rate over zero reference words is 0 without errors and infinite with some.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import kaldialign


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Error counts of a set of utterances; they can be summed over utterances, sets or learners.

    All fields are whole numbers, so that ``dataclasses.astuple`` can be summed between processes and unpacked again.
    """

    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0
    reference_words: int = 0
    character_errors: int = 0
    reference_characters: int = 0  # one space between words counts as a character
    utterances: int = 0
    wrong_utterances: int = 0  # with at least one word error

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return ErrorCounts(*(ours + theirs for ours, theirs in pairs))

    @property
    def errors(self) -> int:
        """Word errors of all three kinds."""
        return self.insertions + self.deletions + self.substitutions

    @property
    def wer(self) -> float:
        """Word errors per reference word; may exceed 1."""
        return rate(self.errors, self.reference_words)

    @property
    def cer(self) -> float:
        """Character errors per reference character."""
        return rate(self.character_errors, self.reference_characters)

    @property
    def sentence_error_rate(self) -> float:
        """Fraction of utterances with an error."""
        return rate(self.wrong_utterances, self.utterances)


def rate(errors: int, total: int) -> float:
    """errors / total; for a total of 0, 0 without errors and infinite with some."""
    if total:
        return errors / total
    return math.inf if errors else 0.0


def count_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Count the errors of one utterance; words are separated by white space."""
    words, hypothesis_words = reference.split(), hypothesis.split()
    edits = kaldialign.edit_distance(words, hypothesis_words)
    characters = " ".join(words)
    character_edits = kaldialign.edit_distance(characters, " ".join(hypothesis_words))
    return ErrorCounts(
        insertions=edits["ins"],
        deletions=edits["del"],
        substitutions=edits["sub"],
        reference_words=len(words),
        character_errors=character_edits["total"],
        reference_characters=len(characters),
        utterances=1,
        wrong_utterances=int(edits["total"] > 0),
    )


def score(references: Mapping[str, str], hypotheses: Mapping[str, str]) -> ErrorCounts:
    """Count the errors of a set of texts, by utterance id; raises ValueError unless both have the same ids."""
    return sum(counts_by_utterance(references, hypotheses).values(), ErrorCounts())


def counts_by_utterance(references: Mapping[str, str], hypotheses: Mapping[str, str]) -> dict[str, ErrorCounts]:
    """Count the errors of each utterance, by utterance id; raises ValueError unless both have the same ids."""
    lonely = sorted(references.keys() ^ hypotheses.keys())
    if lonely:
        raise ValueError(
            f"references and hypotheses must have the same utterances, got {len(references)} and {len(hypotheses)}; "
            f"{lonely[0]!r} is only among the {'references' if lonely[0] in references else 'hypotheses'}"
        )
    return {name: count_errors(reference, hypotheses[name]) for name, reference in references.items()}
