"""Steps per hour that scripts/doctor.py predicts, against those of a short real run.

    python scripts/bench/doctor.py --learners 1 --steps 60 --rounds 3 --json doctor.json -- experiment=demo backend=single

Each round asks the doctor and then trains so many steps, without evaluations, in a folder that is removed. A measured step is
without its wait for data, for what is predicted is computing: the utterances of a short run are read for the first time. Means of
steps, the median of rounds.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from asr.foreign.terminal import say
from asr.runs.metrics import read_rows
from asr.runs.run_folder import RunFolder
from distributed.errors import UsageError
from scripts.bench.report import save_figures
from scripts.composition.checkup.run_checks import check_run
from scripts.composition.startup import REPOSITORY, run_main

WARM_UP = 5  # first steps, which are not counted
PREDICTED = re.compile(r"([\d,]+) steps per hour of computing")


def main(arguments: list[str]) -> None:
    """Print a line for each round and save the figures."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learners", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60, help="of each real run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to save the figures")
    options, overrides = parser.parse_args(arguments[:place]), arguments[place + 1 :]
    rows = []
    for number in range(options.rounds):
        row = {"predicted": predicted(overrides, options.learners), "measured": measured(overrides, options)}
        rows.append(row | {"ratio": row["predicted"] / row["measured"]})
        say(
            f"round {number + 1}: {row['predicted']:,.0f} predicted, {row['measured']:,.0f} measured, {rows[-1]['ratio']:.2f}"
        )
    ratio = statistics.median(row["ratio"] for row in rows)
    say(f"predicted / measured, median of {len(rows)}: {ratio:.2f}")
    if options.json is not None:
        save_figures(
            options.json, {"predicted / measured": ratio}, rows, learners=options.learners, overrides=overrides
        )


def predicted(overrides: Sequence[str], learners: int) -> float:
    """Steps per hour of computing that the doctor expects.

    Raises:
        UsageError: it expects none, as the run cannot work.
    """
    findings = list(check_run("train", overrides, learners))
    found = [PREDICTED.match(each.text) for each in findings if each.what == "pace"]
    if not found or found[0] is None:
        raise UsageError(f"no pace: {'; '.join(str(each) for each in findings)}")
    return float(found[0].group(1).replace(",", ""))


def measured(overrides: Sequence[str], options: argparse.Namespace) -> float:
    """Steps per hour of a real run, from the mean of its steps.

    Raises:
        UsageError: the run failed, or had no step after the warm-up.
    """
    with tempfile.TemporaryDirectory(prefix="pace-") as folder:
        command = [
            sys.executable, str(REPOSITORY / "scripts" / "launch.py"), "--learners", str(options.learners), "train",
            *overrides, "name=pace", f"exp_dir={folder}", f"trainer.max_steps={options.steps}", "trainer.log_every=1",
            "evaluation.sets=[]", "logger=[]",
        ]  # fmt: skip
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        path = RunFolder(Path(folder) / "pace").metrics_of(0)
        rows = read_rows(path) if path.is_file() else []
    if done.returncode:
        raise UsageError(f"the run failed: {done.stderr.strip().splitlines()[-1]}")
    return 3600 / computing_seconds(rows)


def computing_seconds(rows: Sequence[dict[str, float]]) -> float:
    """Mean seconds of the steps after the warm-up, without their wait for data.

    Raises:
        UsageError: there is none.
    """
    seconds = [row["time/step"] - row["time/data_wait"] for row in rows if "time/step" in row][WARM_UP:]
    if not seconds:
        raise UsageError(f"--steps: a run needs more than {WARM_UP} steps, the first of which are not counted")
    return statistics.fmean(seconds)


if __name__ == "__main__":
    run_main(main)
