"""The texts of icefall's recogs and errs files: what was recognised, and which words go wrong how often.

Word alignments are kaldialign's. ``*`` stands for no word.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import kaldialign

NO_WORD = "*"

Pair = tuple[str, str]  # reference and hypothesis: one word each, or one text each


def align(reference: str, hypothesis: str) -> list[Pair]:
    """Pairs of words on a minimum edit distance path; the empty string where one side has no word."""
    pairs: list[Pair] = kaldialign.align(reference.split(), hypothesis.split(), "")
    return pairs


def format_transcripts(references: Mapping[str, str], hypotheses: Mapping[str, str]) -> str:
    """Two lines for each utterance: ``id:<tab>ref=[...]`` and ``id:<tab>hyp=[...]``, as lists of words."""
    lines = []
    for name, reference in references.items():
        lines += [f"{name}:\tref={reference.split()}", f"{name}:\thyp={hypotheses[name].split()}"]
    return "\n".join([*lines, ""])


def format_errors(texts: Mapping[str, Pair]) -> str:
    """The errs file: totals, then each utterance, then substitutions, deletions, insertions and words by count."""
    aligned = {name: align(*pair) for name, pair in texts.items()}
    pairs = Counter(pair for alignment in aligned.values() for pair in alignment)
    substitutions = {pair: n for pair, n in pairs.items() if pair[0] != pair[1] and all(pair)}
    deletions = {pair[0]: n for pair, n in pairs.items() if not pair[1]}
    insertions = {pair[1]: n for pair, n in pairs.items() if not pair[0]}
    lines = [
        *_totals(pairs, insertions, deletions, substitutions),
        "",
        "PER-UTT DETAILS: corr or (ref->hyp)",
        *(f"{name}:\t{_details(alignment)}" for name, alignment in aligned.items()),
        "",
        "SUBSTITUTIONS: count ref -> hyp",
        *(f"{n}   {reference} -> {hypothesis}" for (reference, hypothesis), n in _by_count(substitutions.items())),
        "",
        "DELETIONS: count ref",
        *(f"{n}   {word}" for word, n in _by_count(deletions.items())),
        "",
        "INSERTIONS: count hyp",
        *(f"{n}   {word}" for word, n in _by_count(insertions.items())),
        "",
        "PER-WORD STATS: word  corr tot_errs count_in_ref count_in_hyp",
        *_word_lines(pairs),
        "",
    ]
    return "\n".join(lines)


def _totals(
    pairs: Counter[Pair], insertions: dict[str, int], deletions: dict[str, int], substitutions: dict[Pair, int]
) -> list[str]:
    inserted, deleted, substituted = sum(insertions.values()), sum(deletions.values()), sum(substitutions.values())
    words = pairs.total() - inserted
    errors = inserted + deleted + substituted
    percent = f"{100 * errors / words:.2f}" if words else "0.00" if not errors else "inf"
    return [
        f"%WER = {percent}",
        f"Errors: {inserted} insertions, {deleted} deletions, {substituted} substitutions, "
        f"over {words} reference words ({words - deleted - substituted} correct)",
        "Search below for sections starting with PER-UTT DETAILS:, SUBSTITUTIONS:, DELETIONS:, INSERTIONS:, "
        "PER-WORD STATS:, PER-SPEAKER STATS:, PER-UTT STATS:",
    ]


def _details(alignment: Iterable[Pair]) -> str:
    """The utterance with errors marked as ``(ref->hyp)``, neighbouring errors joined: ``(NINE->*)`` is a deletion."""
    parts: list[str] = []
    missed: list[str] = []
    added: list[str] = []

    def close_error() -> None:
        if missed or added:
            parts.append(f"({' '.join(missed) or NO_WORD}->{' '.join(added) or NO_WORD})")
            missed.clear()
            added.clear()

    for reference, hypothesis in alignment:
        if reference == hypothesis:
            close_error()
            parts.append(reference)
        else:
            missed += [reference] if reference else []
            added += [hypothesis] if hypothesis else []
    close_error()
    return " ".join(parts)


@dataclass(slots=True)
class _WordStats:
    correct: int = 0
    in_reference: int = 0
    in_hypothesis: int = 0

    @property
    def errors(self) -> int:
        return self.in_reference + self.in_hypothesis - 2 * self.correct


def _word_lines(pairs: Counter[Pair]) -> list[str]:
    stats: dict[str, _WordStats] = {}
    for (reference, hypothesis), n in pairs.items():
        if reference:
            stats.setdefault(reference, _WordStats()).in_reference += n
        if hypothesis:
            stats.setdefault(hypothesis, _WordStats()).in_hypothesis += n
        if reference == hypothesis:
            stats[reference].correct += n
    ordered = sorted(stats.items(), key=lambda item: (-item[1].errors, item[0]))
    return [f"{word}   {s.correct} {s.errors} {s.in_reference} {s.in_hypothesis}" for word, s in ordered]


def _by_count(items: Iterable[tuple[Any, int]]) -> list[tuple[Any, int]]:
    """Entries sorted by count, most frequent first, then alphabetically."""
    return sorted(items, key=lambda item: (-item[1], item[0]))
