"""Align a corpus with a trained run: python scripts/align.py run=exp/my-run [train dev ...] [method=ctc]

Writes alignment/<split>.safetensors into the run's folder: the token or blank of each of the model's states, in every
utterance. An acoustic model is trained on them with frame_targets=exp/my-run/alignment.
"""

import sys
from pathlib import Path


def main(arguments: "list[str]") -> None:
    """Align the splits named in ``arguments``, which also hold overrides; print one line for each split."""
    from scripts.composition.compose import print_help

    if print_help("align", arguments, __doc__ or ""):
        return
    from scripts.composition.alignment import run  # seconds to import

    run(arguments)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from scripts.composition.startup import run_main

    run_main(main)
