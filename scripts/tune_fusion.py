"""Weights of language models: python scripts/tune_fusion.py run=exp/my-run decode.fusion.external=exp/my-lm

One pass over a development set makes lists of hypotheses without language models, each model scores them once, and all
settings of a grid choose from these. Prints word error rates and the command that evaluates with the best setting;
writes eval/<set>/fusion-<decode>.json into the run's folder. With decode.fusion.source too it tunes the density ratio.
"""

import sys
from pathlib import Path


def main(arguments: "list[str]") -> None:
    """Print the table and the best setting, and save all of them."""
    from scripts.composition.compose import print_help

    if print_help("tune_fusion", arguments, __doc__ or ""):
        return
    from scripts.composition.fusion_tuning import run  # seconds to import

    run(arguments)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from scripts.composition.startup import run_main

    run_main(main)
