"""Recognition errors: the worst utterances, and the words that are confused most often.

Words are aligned as in the run's errs file, so that page and file agree.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from asr.decoding.error_report import align as align_words
from asr.reporting import text
from asr.reporting.page import Html, escaped, join, table, tag
from asr.reporting.run import Transcript

Kind = Literal["same", "substitution", "deletion", "insertion"]


@dataclass(frozen=True, slots=True)
class Edit:
    """One position of an alignment; a missing word is empty."""

    reference: str
    hypothesis: str

    @property
    def kind(self) -> Kind:
        """The kind of error: insertion, deletion, substitution, or none."""
        if self.reference == self.hypothesis:
            return "same"
        if not self.reference:
            return "insertion"
        return "substitution" if self.hypothesis else "deletion"


@dataclass(frozen=True, slots=True)
class Aligned:
    """An utterance with its alignment."""

    transcript: Transcript
    edits: tuple[Edit, ...]

    @property
    def errors(self) -> int:
        """Number of words inserted, deleted and substituted."""
        return sum(edit.kind != "same" for edit in self.edits)

    @property
    def rate(self) -> float:
        """Errors per word of the reference; an empty reference counts as one word."""
        return self.errors / max(len(self.transcript.reference), 1)


def align(transcript: Transcript) -> Aligned:
    """The alignment with the fewest errors."""
    pairs = align_words(" ".join(transcript.reference), " ".join(transcript.hypothesis))
    return Aligned(transcript, tuple(Edit(reference, hypothesis) for reference, hypothesis in pairs))


def worst(transcripts: Sequence[Transcript], limit: int) -> list[Aligned]:
    """Utterances with the most errors, the higher rate first among equals; those without an error are left out."""
    wrong = [aligned for transcript in transcripts if (aligned := align(transcript)).errors]
    return sorted(wrong, key=lambda a: (-a.errors, -a.rate, a.transcript.utterance_id))[:limit]


def confusions(transcripts: Sequence[Transcript], limit: int) -> dict[Kind, list[tuple[Edit, int]]]:
    """The most frequent substitutions, deletions and insertions, with their counts."""
    counts = Counter(edit for transcript in transcripts for edit in align(transcript).edits)
    found: dict[Kind, list[tuple[Edit, int]]] = {"substitution": [], "deletion": [], "insertion": []}
    for edit, times in sorted(counts.items(), key=lambda item: (-item[1], item[0].reference, item[0].hypothesis)):
        if edit.kind != "same" and len(found[edit.kind]) < limit:
            found[edit.kind].append((edit, times))
    return found


def utterance_list(utterances: Sequence[Aligned]) -> Html:
    """Utterances with errors marked in the text: missed words are struck out, written ones underlined."""
    items = []
    for aligned in utterances:
        words = len(aligned.transcript.reference)
        facts = f"{aligned.errors} of {words} word{'' if words == 1 else 's'} · {text.percent(aligned.rate, 0)}"
        note = tag("div", tag("span", aligned.transcript.utterance_id), tag("span", facts), class_="note")
        items.append(tag("li", note, marked(aligned.edits)))
    return tag("ol", *items, class_="utterances")


def marked(edits: Sequence[Edit]) -> Html:
    """The reference with missed words as <del> and words written instead or in addition as <ins>."""
    words: list[Html] = []
    for edit in edits:
        if edit.kind == "same":
            words.append(escaped(edit.reference))
            continue
        words += [tag("del", edit.reference)] if edit.reference else []
        words += [tag("ins", edit.hypothesis)] if edit.hypothesis else []
    return Html(" ".join(words))


def confusion_tables(found: dict[Kind, list[tuple[Edit, int]]]) -> Html:
    """One small table for each kind of error that happened."""
    tables = []
    if found["substitution"]:
        rows = [(edit.reference, edit.hypothesis, str(times)) for edit, times in found["substitution"]]
        tables.append(table(("said", "recognised", "times"), rows, "Most frequent substitutions", numbers=(2,)))
    if found["deletion"]:
        rows2 = [(edit.reference, str(times)) for edit, times in found["deletion"]]
        tables.append(table(("missed", "times"), rows2, "Most frequent deletions", numbers=(1,)))
    if found["insertion"]:
        rows2 = [(edit.hypothesis, str(times)) for edit, times in found["insertion"]]
        tables.append(table(("added", "times"), rows2, "Most frequent insertions", numbers=(1,)))
    return tag("div", join(tables), class_="columns")
