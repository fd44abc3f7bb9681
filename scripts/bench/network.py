"""Step times of two learners on a link of limited bandwidth, under this project's schemes and torch's own ones.

    sudo .venv/bin/python scripts/bench/network.py --json network.json

Compute is real: a perceptron of 10 million parameters (--quick: 5) on batches of 150 to 200 ms. The link is emulated
(scripts/bench/namespaces.py); its goodput is measured in the same run by plain TCP, in both directions at once, with
messages of the model's size. Schemes take turns, always with both learners at work; among them are computation alone,
and computation while plain TCP fills the link, which shows what the kernel's part of it takes from the learners' cores.
A turn gives the mean over its steps, which for the asynchronous scheme last as long as several exchanges; of that
scheme only exchanges count that began and ended within these steps. Figures are medians over turns and learners; step
times are compared with computation alone in the same turn.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from scripts.bench.namespaces import linked_hosts, run_on
from scripts.bench.network_learner import Plan
from scripts.bench.report import save_figures
from scripts.composition.startup import run_main

BANDWIDTHS = ("1gbit", "200mbit")
FULL, QUICK = Plan(width=1216, turns=5, steps=4, exchanges=20), Plan(width=864, turns=1, steps=2, exchanges=8)
ROUNDS_SHARE = 0.8  # target of an asynchronous scheme, as a fraction of the rounds that the link has room for
FIGURES = (
    "step_ratio", "step_over_bound", "wire_efficiency", "rounds_per_step", "rounds_over_target",
    "counted_over_interface",
)  # fmt: skip
Record = dict[str, Any]


def main(arguments: list[str]) -> None:
    """Measure, print a table in Markdown and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--quick", action="store_true", help="fewer steps of a smaller model: under a minute")
    parser.add_argument("--bandwidths", nargs="+", default=BANDWIDTHS, help="rates as tc writes them")
    options = parser.parse_args(arguments)
    records = measure(options.bandwidths, QUICK if options.quick else FULL)
    rows = [row for bandwidth in options.bandwidths for row in summarise(bandwidth, records)]
    print(table(rows))
    if options.json is not None:
        how = {"compute": "measured", "link": "emulated: network namespaces and tbf"}
        save_figures(options.json, figures(rows), rows, how=how)


def measure(bandwidths: Sequence[str], plan: Plan) -> list[Record]:
    """Run the measurement on both learners and return their records."""
    with linked_hosts(2) as hosts:
        return run_on(hosts, "network_learner.py", hosts[0].address, json.dumps(asdict(plan)), *bandwidths)


def summarise(bandwidth: str, records: Sequence[Record]) -> list[Record]:
    """One row per scheme: medians over the turns of all learners."""
    measured = [record[bandwidth] for record in records]

    def median(*path: str) -> float:
        values = []
        for each in measured:
            for key in path:
                each = each[key]
            values += each if isinstance(each, list) else [each]
        return statistics.median(values)

    compute, goodput = median("step_seconds", "compute"), median("goodput_bytes_per_second")
    rows = []
    for scheme in measured[0]["step_seconds"]:
        step, payload_bytes = median("step_seconds", scheme), median("payload_bytes", scheme)
        row = {
            "scheme": scheme,
            "bandwidth": bandwidth,
            "batch": measured[0]["batch"],
            "step_seconds": step,
            "step_ratio": statistics.median(step_ratios(scheme, measured)),
            "step_over_bound": step / max(compute, payload_bytes / goodput),
            "payload_bytes": payload_bytes,
            "goodput_bytes_per_second": goodput,
            "rounds_per_step": median("rounds_per_step", scheme),
        }
        if scheme in measured[0]["exchange_seconds"]:
            exchange = median("exchange_seconds", scheme)
            row["wire_efficiency"] = records[0]["message_bytes"] / exchange / goodput
        if scheme == "adpsgd":
            room = min(1.0, compute * goodput / records[0]["message_bytes"])
            row["rounds_over_target"] = row["rounds_per_step"] / (ROUNDS_SHARE * room)
        if payload_bytes and scheme != "tcp":  # for tcp only the bytes given to the kernel are counted
            row["counted_over_interface"] = median("counted_bytes", scheme) / median("interface_bytes", scheme)
        rows.append(row)
    return rows


def step_ratios(scheme: str, measured: Sequence[Record]) -> list[float]:
    """Step times relative to computation alone in the same turn, so that slow drift of the machine cancels."""
    pairs = [zip(each["step_seconds"][scheme], each["step_seconds"]["compute"], strict=True) for each in measured]
    return [step / compute for turns in pairs for step, compute in turns]


def figures(rows: Sequence[Record]) -> dict[str, float]:
    """The rows as flat results, keyed by scheme and bandwidth."""
    found = {}
    for row in rows:
        if row["scheme"] == "compute":
            found[f"compute_seconds/{row['bandwidth']}"] = row["step_seconds"]
            continue
        found[f"payload_bytes/{row['scheme']}"] = row["payload_bytes"]
        for key in FIGURES:
            if key in row:
                found[f"{key}/{row['scheme']}/{row['bandwidth']}"] = row[key]
    return found


def table(rows: Sequence[Record]) -> str:
    """The rows in Markdown."""
    lines = [
        "| link | scheme | step ms | / compute | / bound | wire efficiency | rounds per step | / target | MB per step |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        optional = [f"{row[key]:.2f}" if key in row else "-" for key in ("wire_efficiency", "rounds_over_target")]
        lines.append(
            f"| {row['bandwidth']} | {row['scheme']} | {row['step_seconds'] * 1000:.0f} | {row['step_ratio']:.2f} | "
            f"{row['step_over_bound']:.2f} | {optional[0]} | {row['rounds_per_step']:.2f} | {optional[1]} | "
            f"{row['payload_bytes'] / 1e6:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
