"""Train a recogniser: python scripts/train.py [key=value ...], or several learners with scripts/launch.py.

    python scripts/launch.py --learners 2 train name=my-run backend=dpsgd data=synthetic

The same command again goes on where it stopped. Everything lands in exp/<name>/.
"""

import sys
from pathlib import Path


def main(arguments: "list[str]") -> None:
    """Train a recogniser."""
    from scripts.composition.compose import print_help

    if print_help("train", arguments, __doc__ or ""):
        return
    from scripts.composition.training import train  # seconds to import

    train("train", arguments)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from scripts.composition.startup import run_and_leave

    run_and_leave(main)
