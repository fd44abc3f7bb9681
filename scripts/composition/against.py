"""Comparison of a new evaluation with the results of an earlier one, utterance by utterance."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from asr.decoding.bootstrap import REPLICATIONS
from asr.decoding.comparison import compare
from asr.decoding.results import SetResult, write_comparison
from asr.decoding.wer import ErrorCounts, count_errors
from asr.foreign.files import ForeignError
from asr.foreign.json_text import read_json
from asr.parts import plain
from asr.reporting.run import read_transcripts
from asr.runs.run_folder import Evaluation, RunFolder
from distributed.errors import UsageError
from scripts.composition.search import language_model_origins, search_of


@dataclass(frozen=True, slots=True)
class Earlier:
    """The earlier results of one set."""

    checkpoint: str
    references: Mapping[str, str]
    counts: Mapping[str, ErrorCounts]


def method_of(config: DictConfig) -> dict[str, Any]:
    """The settings that two evaluations must share: search, text normalisation, and the language models' weights.

    Raises:
        UsageError: there is no language model where the search names one.
    """
    method = {"decode": search_of(config.decode), "text": plain(config.text)}
    models = language_model_origins(config.decode)
    return method | {"language_models": models} if models else method


def read_earlier(
    run: Path, sets: Sequence[str], decode: str, method: Mapping[str, Any], command: str
) -> dict[str, Earlier]:
    """The results of ``run`` by set, read before new ones are written, which may replace them in the same folder.

    ``method``: the settings that must be equal; ``command``: the command that evaluates ``run`` with them.

    Raises:
        UsageError: some set was not evaluated, or in another way; the line ends with the command to run.
    """
    remedy = f"run this first: {command}"
    if not run.is_dir():
        raise UsageError(f"against={run}: no such folder; give that of a run that was evaluated, such as exp/demo")
    return {name: _read(run, name, decode, method, remedy) for name in sets}


def _read(run: Path, name: str, decode: str, method: Mapping[str, Any], remedy: str) -> Earlier:
    files = RunFolder(run).evaluation(name, decode)
    figures_file, recogs = files.figures, files.transcripts
    if not figures_file.is_file() or not recogs.is_file():
        raise UsageError(f"against={run}: {name!r} was not evaluated there with {decode} search; {remedy}")
    try:
        figures = read_json(figures_file)
    except ForeignError as error:
        raise UsageError(f"{error}; {remedy}") from None
    differing = [key for key, value in method.items() if figures.get(key) != value]
    if differing:
        key = differing[0]
        other = "other language models" if key == "language_models" else f"another {key}="
        raise UsageError(
            f"against={run}: {name!r} was evaluated there with {other} ({_shown(figures.get(key))}, "
            f"here {_shown(method[key])}); {remedy}"
        )
    texts = {each.utterance_id: (each.reference, each.hypothesis) for each in read_transcripts(recogs)}
    pairs = {key: (" ".join(reference), " ".join(hypothesis)) for key, (reference, hypothesis) in texts.items()}
    references = {key: reference for key, (reference, _) in pairs.items()}
    counts = {key: count_errors(*pair) for key, pair in pairs.items()}
    return Earlier(str(figures.get("checkpoint")), references, counts)


def _shown(value: Any) -> str:
    """A node without its ``_target_``; "unknown" for results of versions that did not record it."""
    if not isinstance(value, dict):
        return "unknown"
    shown = ((key, f"({_shown(each)})" if isinstance(each, dict) else each) for key, each in value.items())
    return " ".join(f"{key}={each}" for key, each in shown if key != "_target_")


def write_against(files: Evaluation, run: Path, earlier: Earlier, result: SetResult, checkpoint: str) -> str:
    """Compare the results of a set with those of another run, save the comparison and return it as a line.

    Raises:
        UsageError: the two evaluations are not of the same utterances and references.
    """
    check_same(run, result.name, result.references, earlier.references)
    comparison = compare(result.counts, earlier.counts, replications=REPLICATIONS, seed=0)
    record = {"checkpoint": checkpoint, "other_checkpoint": earlier.checkpoint, "utterances": result.total.utterances}
    return write_comparison(files, run.resolve().name, comparison, record)


def check_same(run: Path, name: str, references: Mapping[str, str], others: Mapping[str, str]) -> None:
    """Raise UsageError if two evaluations have different utterances or references; white space is ignored."""
    what = f"against={run}: cannot be compared on {name!r}:"
    lonely = sorted(references.keys() ^ others.keys())
    if lonely:
        where = "here" if lonely[0] in references else "there"
        raise UsageError(
            f"{what} {len(references)} utterances here, {len(others)} there, {lonely[0]!r} only {where}; "
            "evaluate both runs on one manifest: sets=[path/to/test.jsonl]"
        )
    for key, reference in references.items():
        if reference.split() != others[key].split():
            raise UsageError(
                f"{what} the reference of {key!r} is {reference!r} here and {others[key]!r} there; evaluate both runs "
                "on one manifest, and with text.case=lower if their tokenizers write different cases"
            )


def command_for(run: Path, arguments: Sequence[str]) -> str:
    """The command that evaluates ``run`` as ``arguments`` evaluate another one, with its own best checkpoint."""
    kept = [each for each in arguments if each.partition("=")[0] not in ("run", "against", "checkpoint")]
    return shlex.join(["python", "scripts/evaluate.py", f"run={run}", *kept])
