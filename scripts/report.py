"""A page about one run or several: python scripts/report.py exp/my-run [exp/another ...] [key=value ...]

One run: <run>/report.html, with the lattices of a few utterances. Several: comparison.html in the working directory, or
comparison-2.html, ... where that is taken; baseline=exp/another says what they are compared with. A folder of runs
(python scripts/report.py exp): index.html there, with a line for each. out=page.html writes to that file, whatever was there.
watch=true writes nothing and serves the page on 127.0.0.1; it renews itself while the runs go on.
"""

import sys
from pathlib import Path


def main(arguments: "list[str]") -> None:
    """Write the report of the runs whose folders ``arguments`` name; they also hold overrides."""
    from scripts.composition.compose import print_help

    if print_help("report", arguments, __doc__ or ""):
        return
    from scripts.composition.pages import run  # seconds to import

    run(arguments)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from scripts.composition.startup import run_main

    run_main(main)
