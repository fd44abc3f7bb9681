"""Check a corpus and write its manifests: python scripts/prepare.py data=librispeech data.root=/corpora/LibriSpeech

Prints, for each split, how much speech there is and what was refused; the same as JSON beside the manifests. Training
does this by itself where it is missing; here it is done beforehand, and looked at. data.on_bad=skip lists all that is wrong.
"""

import sys
from pathlib import Path


def main(arguments: "list[str]") -> None:
    """Prepare, examine, report; an error if there is what ``data.on_bad=stop`` would stop a run for."""
    from scripts.composition.compose import print_help

    if print_help("prepare", arguments, __doc__ or ""):
        return
    from scripts.composition.preparation import run  # seconds to import

    run(arguments)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from scripts.composition.startup import run_main

    run_main(main)
