"""Cut long utterances at pauses: python scripts/cut.py run=exp/my-run out=data/cut [train | a.jsonl ...] [cutter.max_seconds=8]

Writes out/<set>.jsonl, a manifest of pieces for data=manifests: short utterances as they are, of long ones the segments
between pauses, with the words that the run aligns with them. The audio stays where it is. Stretches without a pause
that are longer than cutter.max_seconds are left out, counted and named.
"""

import sys
from pathlib import Path


def main(arguments: "list[str]") -> None:
    """Cut the sets named in ``arguments``, which also hold overrides; print one line for each set."""
    from scripts.composition.compose import print_help

    if print_help("cut", arguments, __doc__ or ""):
        return
    from scripts.composition.cutting import run  # seconds to import

    run(arguments)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from scripts.composition.startup import run_main

    run_main(main)
