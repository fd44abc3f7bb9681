"""Check a corpus and write its manifests: python scripts/prepare.py data=librispeech data.root=/corpora/LibriSpeech

Prints the amount of speech and the refusals of each split, and writes them as JSON beside the manifests. Training
does this itself where needed; this command does it beforehand, for inspection. data.on_bad=skip lists all defects.
"""

import sys
from pathlib import Path


def main(arguments: "list[str]") -> None:
    """Prepare, examine and report; exits with an error where ``data.on_bad=stop`` would stop a run."""
    from scripts.composition.compose import print_help

    if print_help("prepare", arguments, __doc__ or ""):
        return
    from scripts.composition.preparation import run  # seconds to import

    run(arguments)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from scripts.composition.startup import run_main

    run_main(main)
