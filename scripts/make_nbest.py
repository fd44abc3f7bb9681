"""Decode a training set to n-best lists: python scripts/make_nbest.py run=exp/my-run [split=train] [hypotheses=20]

    python scripts/launch.py --learners 8 make_nbest run=exp/my-run
    python scripts/make_nbest.py 'run=[exp/f1,exp/f2,exp/f3]' out=exp/crossed

Writes nbest/<split>/ into the run's folder, for hooks=[nbest_label_smoothing]. Of several runs that each left out a fold
(fold.leave_out) an utterance is decoded by the one that has not heard it. Processes take the shards in turn and do
not wait for each other; the same command again, with as many of them as you like, goes on where it stopped.
"""

import sys
from pathlib import Path


def main(arguments: "list[str]") -> None:
    """Decode the missing shards that this process is to write; print one line for each."""
    from scripts.composition.compose import print_help

    if print_help("make_nbest", arguments, __doc__ or ""):
        return
    from scripts.composition.nbest_lists import run  # seconds to import

    run(arguments)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from scripts.composition.startup import run_main

    run_main(main)
