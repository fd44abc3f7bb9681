"""Examines a corpus before training: manifests, statistics of each split, and utterances that cannot be used."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.data.corpus import Corpus
from asr.data.manifest import Utterance, read_manifest
from asr.data.readers.base import TableCorpus, read_refused, read_removed
from asr.data.statistics import Summary, examine, shared_recordings
from asr.data.tokenizer import SPACE_SYMBOL, Tokenizer
from asr.foreign.terminal import log_to_stderr, say
from asr.parts import build
from asr.runs.files import write_atomically
from distributed.errors import UsageError
from scripts.composition.build import training_texts
from scripts.composition.compose import compose

CHARACTERS_SHOWN = 80  # most characters of the alphabet that are printed; the report has all


@dataclass(frozen=True, slots=True)
class SplitReport:
    """One split: its manifest, the statistics of usable utterances, and the unusable ones."""

    manifest: Path
    summary: Summary
    left_out: list[str]  # reasons for what the reader left out of the manifest
    refused: list[str]  # reasons for utterances of the manifest that cannot be used
    removed: dict[str, int]  # number of markers removed from the texts, by marker
    emptied: int  # number of utterances that held only markers; not in the manifest

    def lines(self, split: str, examples: int) -> list[str]:
        """The lines to print."""
        s, wrong = self.summary, self.left_out + self.refused
        tokens = "" if s.tokens_per_second is None else f", {s.tokens_per_second:.1f} tokens/s"
        head = (
            f"{split}: {counted(s.utterances, 'utterance')}, {duration(s.hours)}, {counted(s.speakers, 'speaker')}; "
            f"{s.shortest_seconds:.2f} to {s.longest_seconds:.2f} s, median {s.median_seconds:.2f}; "
            f"{s.characters_per_second:.1f} characters/s{tokens}; refused {len(wrong)}"
        )
        shown = s.alphabet[:CHARACTERS_SHOWN] + "..." * (len(s.alphabet) > CHARACTERS_SHOWN)
        rest = [f"  and {len(wrong) - examples} more"] if len(wrong) > examples else []
        return [
            head,
            f"  {self.manifest}",
            f"  {len(s.alphabet)} characters: {shown.replace(' ', SPACE_SYMBOL)}",
            *self._removed_line(),
            *(f"  refused: {reason}" for reason in wrong[:examples]),
            *rest,
        ]

    def _removed_line(self) -> list[str]:
        counts = ", ".join(f"{count} {marker}" for marker, count in self.removed.items())
        emptied = f"; left out {counted(self.emptied, 'utterance')} of nothing else" if self.emptied else ""
        return [f"  removed from texts: {counts}{emptied}"] if self.removed else []

    def record(self) -> dict[str, Any]:
        """The values to save in report.json."""
        rates = {
            "characters_per_second": self.summary.characters_per_second,
            "tokens_per_second": self.summary.tokens_per_second,
        }
        refused = {"left_out": self.left_out, "refused": self.refused}
        removed = {"removed": self.removed, "emptied": self.emptied}
        return {"manifest": str(self.manifest)} | dataclasses.asdict(self.summary) | rates | refused | removed


def counted(number: int, noun: str) -> str:
    """Number and noun: 1 utterance, 2 utterances."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(hours: float) -> str:
    """Duration in hours, or in minutes below 0.1 h."""
    return f"{hours:.2f} h" if hours >= 0.1 else f"{60 * hours:.2f} min"


def run(arguments: list[str]) -> None:
    """Prepare, examine and report; an error if a run with ``data.on_bad=stop`` would stop at this corpus."""
    log_to_stderr()
    config = compose("prepare", arguments)
    corpus: Corpus = build(config.data)
    tokenizer = build(config.tokenizer).fit(training_texts(corpus)) if "tokenizer" in config else None
    manifests = corpus.prepare()
    splits = {split: read_manifest(manifest) for split, manifest in manifests.items()}
    reports = {split: report_on(corpus, split, manifests[split], splits[split], tokenizer) for split in splits}
    for split, report in reports.items():
        say(*report.lines(split, config.examples))
    for (one, other), ids in shared_recordings(splits).items():
        say(f"warning: {one} and {other} have {counted(len(ids), 'recording')} in common, {ids[0]} first")
    path = Path(config.report or next(iter(manifests.values())).parent / "report.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({s: r.record() for s, r in reports.items()}, ensure_ascii=False, indent=2) + "\n")
    say(f"report: {path}")
    check(list(reports.values()), corpus.on_bad)


def report_on(
    corpus: Corpus, split: str, manifest: Path, utterances: Sequence[Utterance], tokenizer: Tokenizer | None
) -> SplitReport:
    """Examine every utterance of a manifest, and those that the reader left out of it."""
    summary, refused = examine(utterances, corpus.sample_rate, tokenizer, resample=corpus.resample)
    by_reader = isinstance(corpus, TableCorpus)
    left_out = read_refused(manifest.parent, split) if by_reader else []
    return SplitReport(
        manifest,
        summary,
        left_out=[str(each) for each in left_out if not each.by_choice],
        refused=[str(each) for each in refused],
        removed=read_removed(manifest.parent, split) if by_reader else {},
        emptied=sum(each.by_choice for each in left_out),
    )


def check(reports: Sequence[SplitReport], on_bad: str) -> None:
    """Raise UsageError if a run would stop at one of the splits."""
    for report in reports:
        if report.refused and (on_bad == "stop" or not report.summary.utterances):
            total = len(report.refused) + report.summary.utterances
            raise UsageError(
                f"{report.refused[0]} [{len(report.refused)} of {total} utterances of {report.manifest.name} are unusable; "
                "data.on_bad=skip leaves them out]"
            )
