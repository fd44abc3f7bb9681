"""The files of an evaluated set, in icefall's layout, and the table of several sets.

eval/<set>/recogs-<decode>.txt   what was said and what was recognised
eval/<set>/errs-<decode>.txt     errors by utterance, word pair, word, speaker
eval/<set>/wer-<decode>.txt      rates, and speakers from the worst to the best
eval/<set>/wer-<decode>.json     the same rates as fractions, and what they are of; null where one is infinite
eval/summary-<decode>.txt        one line per set of a call
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from asr.decoding.bootstrap import REPLICATIONS, bootstrap_interval
from asr.decoding.comparison import Comparison
from asr.decoding.error_report import format_errors, format_transcripts
from asr.decoding.wer import ErrorCounts, counts_by_utterance
from asr.runs.run_folder import Evaluation

COLUMNS = ("set", "%WER", "95 % interval", "%SER", "%CER", "errors", "ins", "del", "sub", "words", "utterances")


@dataclass(frozen=True, slots=True)
class SetResult:
    """The error rates of one set under one search."""

    name: str
    references: Mapping[str, str]  # normalised texts by utterance id
    counts: Mapping[str, ErrorCounts]  # by utterance id
    total: ErrorCounts
    interval: tuple[float, float]  # 95 %, of the word error rate

    @property
    def line(self) -> str:
        """icefall's line for a set, and the 95 % interval."""
        total, (low, high) = self.total, self.interval
        edits = f"{total.insertions} ins, {total.deletions} del, {total.substitutions} sub"
        return (
            f"[{self.name}] %WER {total.wer:.2%} [{total.errors} / {total.reference_words}, {edits} ]"
            f" (95 % interval {low:.2%} to {high:.2%})"
        )


def score_set(name: str, references: Mapping[str, str], hypotheses: Mapping[str, str]) -> SetResult:
    """Score the texts of a set, given by utterance id; raises ValueError unless both have the same ids."""
    counts = counts_by_utterance(references, hypotheses)
    errors = [count.errors for count in counts.values()]
    words = [count.reference_words for count in counts.values()]
    interval = bootstrap_interval(errors, words, replications=REPLICATIONS, seed=0)
    return SetResult(name, references, counts, sum(counts.values(), ErrorCounts()), interval)


def write_results(
    files: Evaluation,
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    speakers: Mapping[str, str] | None = None,
    record: Mapping[str, Any] | None = None,
) -> SetResult:
    """Score a set and write its files.

    Texts and ``speakers`` (empty or missing: unknown) are given by utterance id. ``record`` is written into the JSON
    file beside the rates and names their checkpoint, search and normalisation.
    """
    result = score_set(files.name, references, hypotheses)
    total, by_speaker = result.total, _by_speaker(result.counts, speakers or {})
    details = [f"%CER {total.cer:.2%}", f"%SER {total.sentence_error_rate:.2%} of {total.utterances} utterances"]
    worst = [f"{name}   {n.wer:.2%} [{n.errors} / {n.reference_words}]" for name, n in _worst_first(by_speaker)]
    heading = ["", "SPEAKERS: name   %WER [errors / reference words], worst first"] if worst else []
    wrong = {name: count for name, count in result.counts.items() if count.errors}
    errors = format_errors({name: (references[name], hypotheses[name]) for name in references})
    texts = {
        files.transcripts: format_transcripts(references, hypotheses),
        files.errors: "\n".join([errors, *_statistics("SPEAKER", by_speaker), *_statistics("UTT", wrong)]),
        files.rates: "\n".join([result.line, *details, *heading, *worst, ""]),
        files.figures: _json(figures_of(result) | dict(record or {})),
    }
    files.folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return result


def write_comparison(files: Evaluation, other: str, comparison: Comparison, record: Mapping[str, Any]) -> str:
    """Write against-<other>-<decode>.json into eval/<set>; returns the comparison as a line."""
    figures = {
        key: [_finite(end) for end in value] if key == "interval" else _finite(value)
        for key, value in asdict(comparison).items()
    }
    files.against(other).write_text(_json({"against": other, **figures, **record}), encoding="utf-8")
    (low, high), better, worse = comparison.interval, comparison.better, comparison.worse
    return (
        f"[{files.name}] against {other}: %WER {comparison.wer:.2%} - {comparison.other_wer:.2%} = "
        f"{comparison.difference:+.2%} (95 % interval {low:+.2%} to {high:+.2%}, paired), probability of improvement "
        f"{comparison.probability_of_improvement:.1%}; utterances: {better} better, {worse} worse, "
        f"{comparison.equal} equal"
    )


def summary_table(results: Sequence[SetResult]) -> str:
    """One line per set, in columns."""
    rows = [COLUMNS, *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in rows
    ]
    return "\n".join([*("  ".join(line) for line in lines), ""])


def _row(result: SetResult) -> tuple[str, ...]:
    total, (low, high) = result.total, result.interval
    rates = (f"{100 * each:.2f}" for each in (total.sentence_error_rate, total.cer))
    edits = (total.errors, total.insertions, total.deletions, total.substitutions)
    interval = f"{100 * low:.2f} - {100 * high:.2f}"
    counts = map(str, (*edits, total.reference_words, total.utterances))
    return (result.name, f"{100 * total.wer:.2f}", interval, *rates, *counts)


def figures_of(result: SetResult) -> dict[str, Any]:
    """A result as the JSON file of a set holds it; rates are fractions, not percent."""
    total = result.total
    return {
        "wer": _finite(total.wer),
        "cer": _finite(total.cer),
        "sentence_error_rate": total.sentence_error_rate,
        "wer_interval": [_finite(end) for end in result.interval],
        "insertions": total.insertions,
        "deletions": total.deletions,
        "substitutions": total.substitutions,
        "reference_words": total.reference_words,
        "utterances": total.utterances,
    }


def _json(figures: Mapping[str, Any]) -> str:
    return json.dumps(figures, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _by_speaker(counts: Mapping[str, ErrorCounts], speakers: Mapping[str, str]) -> dict[str, ErrorCounts]:
    """Errors of each known speaker."""
    totals: dict[str, ErrorCounts] = {}
    for name, count in counts.items():
        speaker = speakers.get(name)
        if speaker:
            totals[speaker] = totals.get(speaker, ErrorCounts()) + count
    return totals


def _worst_first(counts: Mapping[str, ErrorCounts]) -> Iterable[tuple[str, ErrorCounts]]:
    """Counts sorted by error rate, then by number of errors, both descending."""
    return sorted(counts.items(), key=lambda item: (-item[1].wer, -item[1].errors, item[0]))


def _statistics(unit: str, counts: Mapping[str, ErrorCounts]) -> list[str]:
    """A section of the errs file in the manner of its PER-WORD STATS."""
    lines = [
        f"{name}   {n.wer:.2%} {n.errors} {n.insertions} {n.deletions} {n.substitutions} {n.reference_words} "
        f"{n.wrong_utterances} {n.utterances}"
        for name, n in _worst_first(counts)
    ]
    columns = "wer tot_errs ins del sub count_in_ref wrong_utts utts"
    return [f"PER-{unit} STATS: {unit.lower()}  {columns}; worst first", *lines, ""] if lines else []
