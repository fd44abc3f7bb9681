"""Try several values: python scripts/sweep.py name=my-sweep [key=value ...] train key=value,value [key=value ...]

    python scripts/sweep.py name=lr train experiment=demo optimizer.lr=0.001,0.002,0.004 backend=allreduce,dpsgd
    python scripts/sweep.py name=lr trials=20 learners=2 train experiment=demo 'optimizer.lr=tag(log,interval(1e-4,1e-2))'
    python scripts/sweep.py name=lr where=slurm train experiment=demo seed=range(1,6)

What stands before train (or train_lm) are settings of the sweep (conf/sweep.yaml), what follows is its runs' own. Everything lands
in exp/<name>/: a run per trial, sweep.csv, sweep.json and comparison.html. The same command again goes on: finished trials
are not run again.
"""

import sys
from pathlib import Path


def main(arguments: "list[str]") -> None:
    """Run the trials of a sweep; exit code 75 if it was asked to stop, 1 if a trial has failed."""
    from scripts.composition.command_line import split_at
    from scripts.composition.compose import print_help
    from scripts.composition.refused_sweeps import NAMED

    own, _, _ = split_at(arguments, NAMED)
    if print_help("sweep", list(own), __doc__ or ""):
        return
    from scripts.composition.sweeps.sweep import run

    sys.exit(run(arguments))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from scripts.composition.startup import run_main

    run_main(main)
