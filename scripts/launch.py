"""Start the learners of a run on this host: python scripts/launch.py [--slurm] --learners N [--restarts N] train [key=value ...]

    python scripts/launch.py --learners 4 train name=my-run experiment=demo backend=dpsgd
    python scripts/launch.py --learners 4 --restarts 3 train_lm name=lm backend=allreduce

The arguments after the name of an entry point are its own. Where a learner ends with an error, or is killed, the
others are ended; the last line names the cause, and the exit code is that learner's. --restarts: how often all are
started again before that, from the newest checkpoint. No port is open beyond the loopback. --slurm: this is a task of
a SLURM step, which has one on each node, and the learners of all nodes train together; without --learners the task is a
learner itself: docs/slurm.md. For several hosts without SLURM use torchrun: docs/training.md.
"""

import sys
from pathlib import Path


def main(arguments: "list[str]") -> None:
    """Start the learners of a run."""
    from scripts.composition.launcher import launch, launch_options

    options = launch_options(arguments, __doc__ or "")
    if options is not None:
        sys.exit(launch(options))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from scripts.composition.startup import run_main

    run_main(main)
