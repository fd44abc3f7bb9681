"""Word error rates of several runs' test sets, one by one and pooled: the table of a leave-one-out experiment.

    python scripts/bench/pool_wer.py exp/fsdd-* --json docs/results/fsdd-connected.json

Intervals are 95 % percentile bootstraps over utterances; the pooled one resamples the utterances of all sets together.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from asr.decoding.bootstrap import REPLICATIONS, bootstrap_interval
from asr.decoding.wer import ErrorCounts, count_errors
from asr.reporting.run import read_transcripts
from asr.runs.run_folder import RunFolder
from scripts.bench.report import save_figures
from scripts.composition.startup import run_main


def main(arguments: list[str]) -> None:
    """Print a table in Markdown and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders that were evaluated")
    parser.add_argument("--set", default="test", help="evaluated set")
    parser.add_argument("--decode", default="greedy", help="search")
    parser.add_argument("--json", type=Path, help="where to save the figures")
    options = parser.parse_args(arguments)
    counts = {}
    for run in options.runs:
        transcripts = read_transcripts(RunFolder(run).evaluation(options.set, options.decode).transcripts)
        counts[run.name] = [count_errors(" ".join(each.reference), " ".join(each.hypothesis)) for each in transcripts]
    rows = [row(name, each) for name, each in counts.items()]
    if len(rows) > 1:
        rows.append(row("pooled", [count for each in counts.values() for count in each]))
    print("| run | WER | 95 % interval | ins | del | sub | words | utterances |\n|---|---|---|---|---|---|---|---|")
    for each in rows:
        low, high = each["wer_interval"]
        print(
            f"| {each['run']} | {each['wer']:.2%} | {low:.2%} - {high:.2%} | {each['insertions']} | "
            f"{each['deletions']} | {each['substitutions']} | {each['reference_words']} | {each['utterances']} |"
        )
    if options.json is not None:
        save_figures(options.json, {f"wer/{each['run']}": each["wer"] for each in rows}, rows)


def row(run: str, counts: list[ErrorCounts]) -> dict[str, Any]:
    """The table row of a group of utterances."""
    total = sum(counts, ErrorCounts())
    interval = bootstrap_interval(
        [each.errors for each in counts], [each.reference_words for each in counts], replications=REPLICATIONS, seed=0
    )
    return {
        "run": run,
        "wer": total.wer,
        "wer_interval": interval,
        "insertions": total.insertions,
        "deletions": total.deletions,
        "substitutions": total.substitutions,
        "reference_words": total.reference_words,
        "utterances": total.utterances,
    }


if __name__ == "__main__":
    run_main(main)
