"""Word errors and delays of streams against the chunk and the penalties of the loss: trains the runs, then measures them.

    python scripts/bench/streaming_runs.py --experiment demo --json streaming.json
    python scripts/bench/streaming_runs.py --experiment demo --name try -- data.train_utterances=40 trainer.max_steps=2   # all steps, at once

Chunks of 160, 320 and 640 ms and whole utterances, which are also the aligner; the chunk of --penalised with the delay penalty and with
FastEmit. A training that has ended is not repeated, one that was stopped goes on. What follows `--` goes to all trainings.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from asr.foreign.terminal import say
from asr.runs.run_folder import RunFolder
from distributed.errors import UsageError
from scripts.bench import streaming
from scripts.composition.startup import REPOSITORY, run_main

CHUNKS = (4, 8, 16)  # states of 40 ms
PENALTY = 0.005
PENALTIES = ("delay_penalty", "fastemit")


def main(arguments: list[str]) -> None:
    """Train what is missing, and print the table."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="demo", help="of all runs; its model must be a Conformer")
    parser.add_argument("--name", default="streaming", help="begins the names of all runs")
    parser.add_argument("--learners", type=int, default=1)
    parser.add_argument(
        "--penalised", type=int, default=8, choices=CHUNKS, help="the chunk that is tried with penalties"
    )
    parser.add_argument("--utterances", type=int, default=200, help="of the test set")
    parser.add_argument("--json", type=Path, help="where to save the figures")
    options, overrides = parser.parse_args(arguments[:place]), arguments[place + 1 :]
    runs = runs_of(options.penalised)
    for number, (suffix, settings) in enumerate(runs.items(), start=1):
        folder = Path("exp") / f"{options.name}-{suffix}"
        say(f"run {number} of {len(runs)}: {folder}")
        if not RunFolder(folder).summary.is_file():
            train(folder, options, [*settings, *overrides])
    folders = [str(Path("exp") / f"{options.name}-{suffix}") for suffix in runs]
    measured = ["--runs", *folders, "--aligner", folders[0], "--utterances", str(options.utterances)]
    streaming.main([*measured, *([] if options.json is None else ["--json", str(options.json)])])


def runs_of(penalised: int) -> dict[str, list[str]]:
    """The settings of each run by the end of its name; the aligner is the first."""
    chunks = {f"chunk-{chunk}": [f"model.encoder.chunk={chunk}"] for chunk in CHUNKS}
    penalties = {
        f"chunk-{penalised}-{name}": [f"model.encoder.chunk={penalised}", f"model.loss.{name}={PENALTY}"]
        for name in PENALTIES
    }
    return {"whole": [], **chunks, **penalties}


def train(folder: Path, options: argparse.Namespace, settings: Sequence[str]) -> None:
    """Train one run to its end.

    Raises:
        UsageError: it failed.
    """
    backend = ["backend=single"] if options.learners == 1 else []
    command = [
        sys.executable, str(REPOSITORY / "scripts" / "launch.py"), "--learners", str(options.learners), "train",
        f"experiment={options.experiment}", f"name={folder.name}", "features.normalise=none", *backend, *settings,
    ]  # fmt: skip
    if subprocess.run(command, check=False).returncode:
        raise UsageError(f"{folder}: the training failed; its lines above say why, and the same command goes on")


if __name__ == "__main__":
    run_main(main)
