"""Transcribe audio: python scripts/transcribe.py run=exp/my-run audio/*.flac recordings/ [format=text|json|srt]

Prints one line per recording, as soon as it is known: its path, a tab, the text; format=json: one object with words, times
and confidence; format=srt: subtitles. A folder stands for all audio below it, - for raw 16-bit little-endian mono samples
on standard input (rate=16000). Other sample rates and channels are converted, which is logged; where ffmpeg is installed,
it decodes what libsndfile cannot read. What cannot be used is named and skipped.

stream=true prints the text while the recording goes on: arecord -t raw -f S16_LE -r 16000 | ... stream=true rate=16000 -
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
