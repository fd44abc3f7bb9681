"""Do the bytes that backends count agree with those of the network interface? Learners in network namespaces, one per host.

    sudo .venv/bin/python scripts/bench/traffic.py --learners 4 --json traffic.json

All schemes of scripts/bench/network.py that count for themselves, in turn, on a perceptron; nothing is timed, so that
other work on the machine does no harm. Interfaces count headers and acknowledgements as well; packets are of 65 kB, as
cards that split and join them make them.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from distributed.errors import UsageError
from scripts.bench.namespaces import linked_hosts, run_on
from scripts.bench.report import save_figures
from scripts.composition.startup import run_main

MOST_HOSTS = 16
WIDTH, STEPS = 1216, 8  # width of the perceptron's layers; steps per scheme


def main(arguments: list[str]) -> None:
    """Count, print a table in Markdown and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learners", type=int, default=4)
    parser.add_argument("--json", type=Path, help="where to save the figures")
    options = parser.parse_args(arguments)
    if not 2 <= options.learners <= MOST_HOSTS:
        raise UsageError(f"--learners {options.learners}: from 2 to {MOST_HOSTS} have a host each")
    with linked_hosts(options.learners) as hosts:
        records = run_on(hosts, "traffic_learner.py", str(WIDTH), str(STEPS))
    rows = [row(scheme, records) for scheme in records[0]]
    print(
        "| scheme | counted, MB per step and learner | interfaces | counted / interfaces, each learner |\n|---|---|---|---|"
    )
    for each in rows:
        ratios = ", ".join(f"{ratio:.3f}" for ratio in each["by_learner"])
        print(f"| {each['scheme']} | {each['counted'] / 1e6:.3f} | {each['interface'] / 1e6:.3f} | {ratios} |")
    if options.json is not None:
        figures = {f"counted_over_interface/{each['scheme']}": each["counted"] / each["interface"] for each in rows}
        save_figures(options.json, figures, rows, learners=options.learners, steps=STEPS, width=WIDTH)


def row(scheme: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Bytes sent per step, the mean over learners, and the ratio for each learner."""
    of_learners = [record[scheme] for record in records]
    return {
        "scheme": scheme,
        **{kind: sum(each[kind] for each in of_learners) / len(records) / STEPS for kind in ("counted", "interface")},
        "by_learner": [each["counted"] / each["interface"] for each in of_learners],
    }


if __name__ == "__main__":
    run_main(main)
