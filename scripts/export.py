"""Export a model for other programs: python scripts/export.py run=exp/my-run [format=onnx] [weights=...] [name=...]

Writes exp/my-run/export/<name>: ONNX files in fp32 and int8 in the layout that sherpa-onnx loads, tokens, a model card and a
small client. A folder of that name is replaced. What does not fit the layout is refused in one line.
"""

import sys
from pathlib import Path


def main(arguments: "list[str]") -> None:
    """Export one model of a run."""
    from scripts.composition.compose import print_help

    if print_help("export", arguments, __doc__ or ""):
        return
    from scripts.composition.exporting import run  # seconds to import

    run(arguments)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from scripts.composition.startup import run_main

    run_main(main)
