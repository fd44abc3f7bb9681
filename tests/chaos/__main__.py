"""The campaign of faults: python -m tests.chaos [--quick] [--seed N] [--only KIND[:TRIAL]] [--minutes M] [--json FILE]

Each trial is a run of real processes to which faults are done as the seed decides; what must hold afterwards is in
oracle.py. It ends with a table and with exit code 1 where a promise was broken; each such line repeats one trial.
"""

import argparse
import math
import os
import sys
import tempfile
import time
from pathlib import Path

from distributed.learners.environment import SECRET, without_stack_frames
from distributed.learners.secret import drawn
from tests.chaos.campaign import KINDS, record, run, table
from tests.chaos.ground import Ground


def _chosen(only: list[str], quick: bool) -> dict[str, list[int]]:
    """The indices of the trials of each kind."""
    usual = {kind: list(range(each.quick if quick else each.full)) for kind, each in KINDS.items()}
    chosen: dict[str, list[int]] = {}
    for word in only:
        kind, _, index = word.partition(":")
        found = [each for each in usual if each == kind or (kind == "read" and each.startswith("read "))]
        if not found:
            sys.exit(f"error: --only {word}: no such kind; there are {', '.join(usual)}, and read for all readers")
        for each in found:
            chosen.setdefault(each, []).extend([int(index)] if index else usual[each])
    return chosen or {kind: indices for kind, indices in usual.items() if indices}


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few trials of every kind, in some minutes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", default=[], metavar="KIND[:TRIAL]", help="may be repeated")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which no trial begins")
    parser.add_argument("--json", type=Path, help="where the record is written")
    options = parser.parse_args()
    os.environ.setdefault(SECRET, drawn())
    without_stack_frames()  # as every entry point does; the server that learners are forked from loads torch later
    root = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"seed {options.seed}, folders in {root}", flush=True)
    began = time.monotonic()
    rows = run(
        Ground(root / "ground", options.quick), options.seed, _chosen(options.only, options.quick), options.minutes
    )
    if options.json:
        options.json.write_text(record(rows, options.seed))
    print(f"\n{table(rows)}\n\n{sum(each.tries for each in rows.values())} tries in {time.monotonic() - began:.0f} s")
    broken = [line for each in rows.values() for line in each.broken]
    print(*broken, sep="\n")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
