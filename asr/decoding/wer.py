"""Word and character error rates, and the files that report them.

Errors are counted on a minimum edit distance alignment by kaldialign; other aligners agree on the total, but may split
ties differently into insertions, deletions and substitutions. The layout of the files is icefall's. The interval is a
percentile bootstrap over utterances (Bisani and Ney 2004).

A rate over zero reference words is 0 without errors and infinite with some (null in JSON, which has no infinity).
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import kaldialign
import numpy as np

from asr.decoding.error_report import format_errors, format_transcripts

REPLICATIONS = 2000  # resampled test sets behind an interval
INTERVAL = (2.5, 97.5)  # percentiles: 95 % of the resampled rates lie between


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Errors of a set of utterances. Counts add up: over utterances, sets or learners.

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
    """errors / total; over nothing 0 without errors, infinite with some."""
    if total:
        return errors / total
    return math.inf if errors else 0.0


def count_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Errors of one utterance. Words are what white space separates."""
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
    """Errors of a set: texts by utterance id. ValueError unless both have the same ids."""
    return sum(_counts_by_utterance(references, hypotheses).values(), ErrorCounts())


def bootstrap_interval(
    errors: Sequence[int], reference_words: Sequence[int], *, replications: int, seed: int
) -> tuple[float, float]:
    """95 % interval of the word error rate, by drawing as many utterances again, with replacement, many times.

    ``errors`` and ``reference_words`` are per utterance. Draws without any reference word are left out; if nothing
    remains the interval is (0, inf): nothing is known. Without a single error every draw would say 0; the upper end is
    then that of the exact binomial interval (Clopper and Pearson 1934), as if words were independent.
    """
    if not any(errors) and sum(reference_words) > 0:
        return 0.0, 1.0 - (INTERVAL[0] / 100) ** (1 / sum(reference_words))
    rng = np.random.default_rng(seed)
    table_2U = np.array([errors, reference_words], dtype=np.int64)
    rates: list[float] = []
    for _ in range(replications):
        drawn_errors, drawn_words = table_2U[:, rng.integers(len(errors), size=len(errors))].sum(1)
        if drawn_words:
            rates.append(drawn_errors / drawn_words)
    if not rates:
        return 0.0, math.inf
    low, high = np.percentile(rates, INTERVAL)
    return float(low), float(high)


def write_results(
    folder: Path,
    decode: str,
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    speakers: Mapping[str, str | None] | None = None,
    checkpoint: str | None = None,
) -> str:
    """Score a set and write {recogs,errs,wer}-<decode>.txt and wer-<decode>.json into ``folder``, eval/<set> of a run.

    Texts by utterance id; with ``speakers``, also by utterance id, the summary lists speakers, worst first; the JSON
    file records of which ``checkpoint`` the figures are. Returns the summary's first line: ``[set] %WER 2.25% [1183 / 52576, 130 ins, 96 del, 957 sub ]`` and the interval.
    """
    counts = _counts_by_utterance(references, hypotheses)
    total = sum(counts.values(), ErrorCounts())
    errors, words = ([getattr(count, name) for count in counts.values()] for name in ("errors", "reference_words"))
    interval = bootstrap_interval(errors, words, replications=REPLICATIONS, seed=0)
    summary = summary_line(folder.name, total, interval)
    details = [f"%CER {total.cer:.2%}", f"%SER {total.sentence_error_rate:.2%} of {total.utterances} utterances"]
    figures = _figures(total, interval) | ({} if checkpoint is None else {"checkpoint": checkpoint})
    texts = {
        f"recogs-{decode}.txt": format_transcripts(references, hypotheses),
        f"errs-{decode}.txt": format_errors({name: (references[name], hypotheses[name]) for name in references}),
        f"wer-{decode}.txt": "\n".join([summary, *details, *_speaker_lines(counts, speakers or {}), ""]),
        f"wer-{decode}.json": json.dumps(figures, indent=2, allow_nan=False) + "\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return summary


def summary_line(name: str, counts: ErrorCounts, interval: tuple[float, float]) -> str:
    """icefall's line for a set, and the 95 % interval."""
    edits = f"{counts.insertions} ins, {counts.deletions} del, {counts.substitutions} sub"
    low, high = interval
    return (
        f"[{name}] %WER {counts.wer:.2%} [{counts.errors} / {counts.reference_words}, {edits} ]"
        f" (95 % interval {low:.2%} to {high:.2%})"
    )


def _counts_by_utterance(references: Mapping[str, str], hypotheses: Mapping[str, str]) -> dict[str, ErrorCounts]:
    lonely = sorted(references.keys() ^ hypotheses.keys())
    if lonely:
        raise ValueError(
            f"references and hypotheses must have the same utterances, got {len(references)} and {len(hypotheses)}; "
            f"{lonely[0]!r} is only among the {'references' if lonely[0] in references else 'hypotheses'}"
        )
    return {name: count_errors(reference, hypotheses[name]) for name, reference in references.items()}


def _figures(counts: ErrorCounts, interval: tuple[float, float]) -> dict[str, object]:
    """What the JSON file holds: fractions, not percent."""
    return {
        "wer": _finite(counts.wer),
        "cer": _finite(counts.cer),
        "sentence_error_rate": counts.sentence_error_rate,
        "wer_interval": [_finite(end) for end in interval],
        "insertions": counts.insertions,
        "deletions": counts.deletions,
        "substitutions": counts.substitutions,
        "reference_words": counts.reference_words,
        "utterances": counts.utterances,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _speaker_lines(counts: Mapping[str, ErrorCounts], speakers: Mapping[str, str | None]) -> list[str]:
    """One line for each known speaker, the worst first."""
    totals: dict[str, ErrorCounts] = {}
    for name, count in counts.items():
        speaker = speakers.get(name)
        if speaker:
            totals[speaker] = totals.get(speaker, ErrorCounts()) + count
    worst = sorted(totals.items(), key=lambda item: (-item[1].wer, item[0]))
    lines = [f"{name}   {count.wer:.2%} [{count.errors} / {count.reference_words}]" for name, count in worst]
    return ["", "SPEAKERS: name   %WER [errors / reference words], worst first", *lines] if lines else []
