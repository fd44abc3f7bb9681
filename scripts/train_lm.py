"""Train a language model over a recogniser's tokens: python scripts/train_lm.py [key=value ...], or several learners:

    python scripts/launch.py --learners 2 train_lm name=lm data=synthetic texts=[more.txt]

The trainer, its backends, checkpoints and folders are those of scripts/train.py; the model reads the transcripts of the
training set (transcripts=true), text files (texts=[...]), or both, and is judged by its perplexity on dev.
"""

import sys
from pathlib import Path


def main(arguments: "list[str]") -> None:
    """Train a language model."""
    from scripts.composition.compose import print_help

    if print_help("train_lm", arguments, __doc__ or ""):
        return
    from scripts.composition.training import train  # seconds to import

    train("train_lm", arguments)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from scripts.composition.startup import run_and_leave

    run_and_leave(main)
