"""Transcribe audio files: python scripts/transcribe.py run=exp/my-run audio/*.flac recordings/

Prints one line per file, as soon as it is known: its path, a tab, the text. A folder stands for all audio below it.
Other sample rates and channels are converted, which is logged. Files that cannot be used are named and skipped.
"""

import sys
from pathlib import Path


def main(arguments: "list[str]") -> None:
    """Transcribe the audio files and folders named in ``arguments``, which also hold overrides."""
    from scripts.composition.compose import print_help

    if print_help("transcribe", arguments, __doc__ or ""):
        return
    from scripts.composition.transcription import run  # seconds to import

    run(arguments)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from scripts.composition.startup import run_main

    run_main(main)
