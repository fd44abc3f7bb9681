"""Make a model small: python scripts/compress.py run=exp/my-run pass=rewrite [checkpoint=best] [weights=...] [name=...]

Writes the model folder exp/my-run/export/<name>, which evaluate.py and transcribe.py take as weights=, training as
init_from= and a following pass as weights=. A folder of that name is replaced.
"""

import sys
from pathlib import Path


def main(arguments: "list[str]") -> None:
    """Apply one pass to a model folder and write the result as a model folder."""
    from scripts.composition.compose import print_help

    if print_help("compress", arguments, __doc__ or ""):
        return
    from scripts.composition.compression import run  # seconds to import

    run(arguments)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from scripts.composition.startup import run_main

    run_main(main)
