"""Train a tokenizer: python scripts/train_tokenizer.py data=librispeech data.root=... out=data/pieces-500

Learns sentencepiece pieces from the texts of the corpus's split train and writes them to the folder out=, for several
runs, or for runs on another corpus: tokenizer=sentencepiece tokenizer.model=data/pieces-500
"""

import sys
from pathlib import Path


def main(arguments: "list[str]") -> None:
    """Read the texts, train, save under a temporary name and rename, so that the folder is complete."""
    from scripts.composition.compose import print_help

    if print_help("train_tokenizer", arguments, __doc__ or ""):
        return
    from scripts.composition.tokenizer_training import run  # seconds to import

    run(arguments)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from scripts.composition.startup import run_main

    run_main(main)
