"""A run folder as data: rows of every learner, evaluation results with their transcripts, configuration, summary.

Only the metrics or the configuration must exist; anything else that is missing (because the run is going on or was
never evaluated) is empty or None, and its part of the page is left out.
"""

import ast
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asr.foreign.files import CONFIGURATION, ROWS, ForeignError, read_lines, read_text
from asr.foreign.json_text import read_json
from asr.foreign.tensors import read_sizes
from asr.foreign.yaml_text import parse_yaml
from asr.runs.costs import number
from asr.runs.metrics import Row, learner_of, metrics_files, read_rows
from asr.runs.model_folder import WEIGHTS
from asr.runs.run_folder import Evaluation, RunFolder
from asr.runs.timeline import Spell, read_timelines
from distributed.errors import UsageError

log = logging.getLogger(__name__)

_TEXT = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_LISTED = re.compile(rf"\[(?:{_TEXT}(?:, {_TEXT})*)?\]")  # the form in which Python prints a list of strings

STILL_THERE = 0.9  # fraction of the samples: a learner without later rows has left (resume with fewer learners)


@dataclass(frozen=True, slots=True)
class Transcript:
    """Reference and hypothesis of one utterance, as lists of words."""

    utterance_id: str
    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """One evaluation: a test set under one search. Metrics that the file lacks are NaN."""

    set_name: str
    decode: str  # greedy, beam8, ...
    wer: float
    cer: float
    insertions: float
    deletions: float
    substitutions: float
    reference_words: float
    utterances: float
    interval: tuple[float, float] | None  # 95 % interval of the word error rate
    transcripts: tuple[Transcript, ...]  # empty where no recogs file was written
    arithmetic: str  # arithmetic of the decoding, such as "fp32 on cpu"; empty if not recorded
    real_time_factor: float = math.nan  # seconds of decoding per second of audio; NaN if not recorded

    @property
    def title(self) -> str:
        """Name of the run in tables."""
        return f"{self.set_name} · {self.decode}"


@dataclass(frozen=True, slots=True)
class ModelSize:
    """How large the model of a run is, as its best checkpoint holds it."""

    parameters: int  # elements of all tensors
    file_bytes: int


@dataclass(frozen=True, slots=True)
class RunRecord:
    """All data of one run that a report shows."""

    name: str
    rows: Mapping[int, Sequence[Row]]  # by learner, in the order of writing
    results: Sequence[Result]  # by set and decode; test sets first
    config_text: str
    config: Mapping[str, Any]  # by dotted key
    summary: Mapping[str, Any]
    size: ModelSize | None = None  # None: there is no checkpoint
    timelines: Mapping[int, Sequence[Spell]] = field(default_factory=dict)  # by learner: when its newest steps did what
    _keys: list[str] = field(default_factory=list, init=False, repr=False, compare=False)  # once they were asked for

    @property
    def learners(self) -> int:
        """Number of learners when the run's last row was written."""
        ends = [number(rows[-1], "samples") for rows in self.rows.values() if rows]
        return sum(end >= STILL_THERE * max(ends) for end in ends)

    def last(self, key: str) -> float:
        """The newest finite value of ``key`` in any learner's rows; NaN where there is none."""
        found = [(number(row, "samples"), value) for row in self.all_rows() if math.isfinite(value := number(row, key))]
        return max(found, key=lambda pair: pair[0])[1] if found else math.nan

    def most(self, key: str) -> float:
        """The largest finite value of ``key`` in any row; NaN where there is none."""
        return max(self._finite(key), default=math.nan)

    def least(self, key: str) -> float:
        """The smallest finite value of ``key`` in any row; NaN where there is none."""
        return min(self._finite(key), default=math.nan)

    def _finite(self, key: str) -> list[float]:
        return [value for row in self.all_rows() if math.isfinite(value := number(row, key))]

    def all_rows(self) -> list[Row]:
        """Rows of all learners, one learner after the other."""
        return [row for learner in sorted(self.rows) for row in self.rows[learner]]

    def metric_keys(self) -> list[str]:
        """The keys of all metrics in any row, sorted."""
        if not self._keys:
            self._keys.extend(sorted({key for rows in self.rows.values() for row in rows for key in row if "/" in key}))
        return self._keys

    def evaluated_sets(self) -> list[str]:
        """The sets that were evaluated during training."""
        return sorted(
            {key.split("/")[1] for key in self.metric_keys() if key.startswith("eval/") and key.count("/") == 2}
        )


def read_run(folder: Path) -> RunRecord:
    """Read a run folder.

    Raises:
        ValueError: ``folder`` is no run folder, or one of its files is broken; one line that names it.
    """
    run_folder = RunFolder(folder)
    config_file = run_folder.config
    metrics = metrics_files(folder)
    if not config_file.is_file() and not metrics:
        raise UsageError(
            f"{folder} is no run folder: it has neither config.yaml nor metrics/*.jsonl; name one like exp/demo"
        )
    config_text = read_text(config_file, CONFIGURATION) if config_file.exists() else ""
    summary = _read_json(run_folder.summary) if run_folder.summary.exists() else {}
    return RunRecord(
        name=folder.resolve().name,
        rows={learner_of(path): tuple(read_rows(path)) for path in metrics},
        results=_results(run_folder.evaluated()),
        config_text=config_text,
        config=dict(leaves("", parse_yaml(config_text, config_file))),
        summary=summary,
        size=_size(run_folder, summary),
        timelines=read_timelines(folder),
    )


def read_transcripts(path: Path) -> tuple[Transcript, ...]:
    """The utterances of a recogs file: ``id:<tab>ref=['A', 'B']`` and ``id:<tab>hyp=[...]``, one pair per utterance."""
    words: dict[str, dict[str, tuple[str, ...]]] = {}
    for count, line in read_lines(path, ROWS):
        if not line:
            continue
        utterance_id, _, said = line.rpartition(":\t")
        kind, _, listed = said.partition("=")
        if not _LISTED.fullmatch(listed):  # nothing but texts: what is nested or calculated may take very long
            raise UsageError(f"{path}:{count} is no line of a recogs file: evaluate the run anew")
        try:
            words.setdefault(utterance_id, {})[kind] = tuple(ast.literal_eval(listed))
        except (ValueError, SyntaxError):
            raise UsageError(f"{path}:{count} is no line of a recogs file: evaluate the run anew") from None
    return tuple(Transcript(key, said.get("ref", ()), said.get("hyp", ())) for key, said in words.items())


def _results(evaluated: Sequence[Evaluation]) -> tuple[Result, ...]:
    results = [_result(files) for files in evaluated]
    return tuple(
        sorted(results, key=lambda result: (not result.set_name.startswith("test"), result.set_name, result.decode))
    )


def _size(run_folder: RunFolder, summary: Mapping[str, Any]) -> ModelSize | None:
    """Size of the best model that the summary names, else of the newest; None where none can be read."""
    best = summary.get("best")
    named = best.get("checkpoint") if isinstance(best, Mapping) else None
    found = sorted(run_folder.checkpoints.glob(f"step-*/{WEIGHTS}"))
    if not found:
        return None
    path = next((path for path in found if path.parent.name == named), found[-1])
    try:
        return ModelSize(sum(read_sizes(path).values()), path.stat().st_size)
    except (ForeignError, OSError) as error:  # the page of a run is more than this
        log.warning("the size of the model is not on the page: %s", error)
        return None


def _result(files: Evaluation) -> Result:
    figures = _read_json(files.figures)
    return Result(
        set_name=files.name,
        decode=files.decode,
        interval=_interval(figures.get("wer_interval")),
        transcripts=read_transcripts(files.transcripts) if files.transcripts.is_file() else (),
        arithmetic=" on ".join(str(figures[key]) for key in ("precision", "device") if key in figures),
        wer=number(figures, "wer"),
        cer=number(figures, "cer"),
        insertions=number(figures, "insertions"),
        deletions=number(figures, "deletions"),
        substitutions=number(figures, "substitutions"),
        reference_words=number(figures, "reference_words"),
        utterances=number(figures, "utterances"),
        real_time_factor=number(figures, "real_time_factor"),
    )


def _interval(ends: Any) -> tuple[float, float] | None:
    if isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, int | float) for end in ends):
        return float(ends[0]), float(ends[1])
    return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except ForeignError as error:
        raise UsageError(f"{error}; remove it and evaluate the run anew") from None


def leaves(prefix: str, tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a configuration by dotted keys, which begin with ``prefix``."""
    if not isinstance(tree, dict) or not tree:
        return [(prefix.removesuffix("."), tree)] if prefix else []
    return [leaf for key, branch in tree.items() for leaf in leaves(f"{prefix}{key}.", branch)]
