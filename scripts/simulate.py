"""Which backend, how fast, how many bytes: python scripts/simulate.py learners=16 parameters=43000000 unit_seconds=0.28 [key=value ...]

Nothing is trained: the steps of every backend are simulated for a model of this size on this cluster. backend=dpsgd
backend.topology=random_ring asks for one scheme with its settings. Prints a table; out=page.html writes it with charts.
"""

import sys
from pathlib import Path


def main(arguments: "list[str]") -> None:
    """Print what each backend would take."""
    from scripts.composition.compose import print_help

    if print_help("simulate", arguments, __doc__ or ""):
        return
    from scripts.composition.simulation import run  # seconds to import

    run(arguments)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from scripts.composition.startup import run_main

    run_main(main)
