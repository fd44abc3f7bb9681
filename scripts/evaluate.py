"""Word error rates of a trained run: python scripts/evaluate.py run=exp/my-run [checkpoint=best] [sets=[dev,test]]

Writes eval/<set>/recogs-, errs-, wer-<decode>.txt and wer-<decode>.json and eval/summary-<decode>.txt into the run's
folder. With against=exp/other, a run evaluated in the same way before, it also compares the two, utterance by
utterance.
"""

import sys
from pathlib import Path


def main(arguments: "list[str]") -> None:
    """Evaluate every set and print one line for each, and one for each comparison."""
    from scripts.composition.compose import print_help

    if print_help("evaluate", arguments, __doc__ or ""):
        return
    from scripts.composition.evaluation import run  # seconds to import

    run(arguments)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from scripts.composition.startup import run_main

    run_main(main)
